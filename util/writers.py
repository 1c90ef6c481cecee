"""Scalars of a training for VisualDL and Weights & Biases.

train/… are those of an optimizer step, every --print_freq steps and after the last step of an epoch; test/… and
train/images_per_second those of an epoch.
"""

import importlib
import re

from util import dist
from util.errors import UserError, one_line


def check_packages(log_visualdl, log_wandb):
    """Raise UserError if the package of a flag that is given is missing. Call it before long work."""
    for given, flag, package in (log_visualdl, '--log_visualdl', 'visualdl'), (log_wandb, '--log_wandb', 'wandb'):
        if given:
            try:
                importlib.import_module(package)
            except ImportError:
                raise UserError(f'{flag}: {package} is not installed; run `pip install {package}`')


def epoch_scalars(record):
    """{name: number} for Writers of an epoch's record of log.txt: what was measured once an epoch.

    Loss and learning rate of the training have been written by step.
    """
    names = {'images_per_second': 'train/images_per_second', 'bad_images': 'train/bad_images'}
    for name in record:
        if re.match('test_(acc|loss)', name):
            names[name] = name.replace('_', '/', 1)
        if name.startswith('best_'):
            names[name] = f'test/{name}'
    return {names[name]: record[name] for name in record if name in names}


class Writers:
    """Writes scalars to VisualDL and wandb, on the first process. Raises UserError if wandb does not start.

    log_visualdl: folder of VisualDL's log, or '' for none. log_wandb: write to wandb. config: {flag: value} for wandb.
    run_id: the wandb run to continue, None for a new one. Attribute run_id: the id of the run.
    """

    def __init__(
        self, log_visualdl='', log_wandb=False, wandb_entity=None, wandb_project=None, config=None, run_id=None
    ):
        self.visualdl, self.wandb, self.run_id = None, None, run_id
        if not dist.is_main():
            return
        if log_visualdl:
            from visualdl import LogWriter

            self.visualdl = LogWriter(logdir=log_visualdl)
        if log_wandb:
            import wandb

            try:
                run = wandb.init(entity=wandb_entity, project=wandb_project, config=config, id=run_id, resume='allow')
            except Exception as error:  # no login, no network, or a run that was deleted
                raise UserError(
                    f'--log_wandb: wandb does not start run {run_id or "(new)"} ({one_line(error)}); leave the flag '
                    'out, or set WANDB_MODE=offline to write to a folder'
                )
            self.wandb, self.run_id = wandb, getattr(run, 'id', None)

    @property
    def active(self):
        """Whether anything is written."""
        return bool(self.visualdl or self.wandb)

    def write(self, scalars, step):
        """scalars: {name: number or one-element tensor}; step: the optimizer step they belong to."""
        if self.visualdl:
            for name, value in scalars.items():
                self.visualdl.add_scalar(tag=name, value=float(value), step=step)
        if self.wandb:
            self.wandb.log({name: float(value) for name, value in scalars.items()}, step=step)

    def close(self):
        """Finish writing."""
        if self.visualdl:
            self.visualdl.close()
        if self.wandb:
            self.wandb.finish()
