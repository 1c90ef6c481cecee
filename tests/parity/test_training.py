"""Twenty steps of training by engine.train_one_epoch, against the same steps with the original's parts in PyTorch: each
side makes its own targets from the label maps."""

from types import SimpleNamespace

import numpy as np
import paddle

import engine
import main
import models
from parity.fidelity import ABSOLUTE
from parity.weights import arrays, difference, image, in_our_terms, load_theirs, theirs_of, to_paddle
from util.data import token_label
from util.train import mixtoken
from util.train.amp import Amp
from util.train.loss import TokenLabelLoss
from util.train.model_ema import ModelEma
from util.train.optim import build_optimizer
from util.train.train_state import TrainState

SECTION = 'Training'
SIZE, CLASSES, BATCH, EPOCHS, STEPS = 64, 20, 4, 2, 10  # 16 tokens; 10 steps an epoch
TOKENS, MAP, TOP = SIZE // 16, 7, 3  # tokens a side; cells a side of a label map, classes in each
ARGS = main.parser().parse_args(
    f'--model lvvit_t --input_size {SIZE} --nb_classes {CLASSES} --lr 1e-3 --min_lr 1e-5 --warmup_lr 1e-6 '
    f'--epochs {EPOCHS} --warmup_epochs 1 --print_freq 100 --ground_truth --data_path .'.split()
)
BOXES = [mixtoken.rand_box(4, 4, np.random.default_rng([1, step])) for step in range(EPOCHS * STEPS)]
DECAY = 0.9  # of the moving average


def batches():
    """Four batches again and again, each with its label maps [B, 2, TOP, MAP, MAP]: (as our loader yields it, maps)."""
    rng = np.random.default_rng(3)
    made = []
    for i in range(4):
        label = rng.integers(CLASSES, size=BATCH)
        targets, maps = [], []
        for k in label:  # the true class scores highest in most cells
            ids = np.argsort(rng.random([CLASSES, MAP, MAP]), axis=0)[:TOP]
            ids[0] = np.where((rng.random([MAP, MAP]) < 0.7) & (ids != k).all(axis=0), k, ids[0])
            scores = -np.sort(-rng.uniform(0, 9, [TOP, MAP, MAP]), axis=0)
            sampling = token_label.sampling_matrix(np.eye(3), SIZE, TOKENS, (0, 0, SIZE, SIZE), (MAP, MAP))
            targets.append(token_label.sparse_target(scores, ids, sampling, CLASSES))
            maps.append([scores, ids])
        batch = {'image': image(i, BATCH, SIZE), 'label': label, 'index': np.arange(BATCH)}
        made.append(({**batch, **token_label.stack_targets(targets)._asdict()}, np.array(maps, 'float32')))
    return [made[step % 4] for step in range(EPOCHS * STEPS)]


def their_targets(original, maps, label):
    """[B, CLASSES, 2 + N] by the original's code from the maps: true label, class token, tokens. The crop, here the
    whole image, and the true label lie where the original's data set puts them: in a third layer of the map.
    """
    third = np.zeros_like(maps[:, :1])
    third[:, 0, 0, 0, :4] = 0, 0, 1, 1
    third[:, 0, 0, 0, 5] = label
    maps = original.torch.from_numpy(np.concatenate([maps, third], axis=1))
    create = original.tlt.data.create_token_label_target
    return create(maps, CLASSES, smoothing=0.1, label_size=TOKENS, device='cpu')


class Loader:
    """What engine.train_one_epoch asks of a loader."""

    dataset = SimpleNamespace(bad_images=lambda: 0, samples=SimpleNamespace(class_names=None))

    def __init__(self, all_batches):
        self.all = all_batches

    def __len__(self):
        return STEPS

    def set_epoch(self, epoch, begin=0):
        assert begin == 0
        self.now = self.all[epoch * STEPS : (epoch + 1) * STEPS]

    def __iter__(self):
        return ({key: to_paddle(value) for key, value in batch.items()} for batch in self.now)


class Recorded(TokenLabelLoss):
    """The loss, with a list of its values."""

    def forward(self, outputs, targets):
        loss = super().forward(outputs, targets)
        self.__dict__.setdefault('values', []).append(loss.item())
        return loss


def train_ours(monkeypatch):
    """(model, averaged model, losses, initial weights)"""
    paddle.seed(0)
    boxes = iter(BOXES)
    monkeypatch.setattr(mixtoken, 'rand_box', lambda *_: next(boxes))
    model = models.build_model('lvvit_t', img_size=SIZE, num_classes=CLASSES)
    state = {key: np.array(value) for key, value in arrays(model.state_dict()).items()}
    run, criterion = TrainState(ARGS, model, Loader([batch for batch, _ in batches()]), Amp()), Recorded()
    run.ema, run.optimizer = ModelEma(model, DECAY), build_optimizer(model, 'adamw', ARGS.lr)
    for _ in range(EPOCHS):
        engine.train_one_epoch(run, model, criterion)
        run.end_epoch({}, [])
    return model, run.ema.module, criterion.values, state


def train_theirs(original, monkeypatch, state):
    """The same with tlt's model and loss and timm's optimizer, schedule and moving average."""
    torch, timm = original.torch, original.timm
    boxes = iter(BOXES)
    monkeypatch.setattr(original.lvvit, 'rand_bbox', lambda *_: next(boxes))
    model = theirs_of(original, 'lvvit_t', SIZE, CLASSES)
    load_theirs(original, model, state)
    model.train()
    ema = timm.utils.ModelEmaV2(model, DECAY)
    criterion = original.tlt.loss.TokenLabelCrossEntropy(classes=CLASSES, ground_truth=True)
    optimizer = timm.optim.create_optimizer_v2(model, 'adamw', ARGS.lr, weight_decay=0.05, eps=1e-8)
    warmup, rates = ARGS.warmup_epochs * STEPS, dict(lr_min=ARGS.min_lr, warmup_lr_init=ARGS.warmup_lr)
    how = dict(t_initial=EPOCHS * STEPS - warmup, warmup_t=warmup, warmup_prefix=True, t_in_epochs=False)
    scheduler = timm.scheduler.CosineLRScheduler(optimizer, **rates, **how)
    losses = []
    for step, (batch, maps) in enumerate(batches()):
        scheduler.step_update(step)
        target = their_targets(original, maps, batch['label'])
        loss = criterion(model(torch.from_numpy(batch['image'])), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model)
        losses.append(loss.item())
    return model, ema.module, losses


def test_twenty_steps_from_the_same_weights_stay_together(original, fidelity, monkeypatch):
    ours, our_average, our_losses, initial = train_ours(monkeypatch)
    theirs, average, losses = train_theirs(original, monkeypatch, initial)
    assert np.mean(losses[-4:]) < 0.97 * np.mean(losses[:4])
    error = np.abs(np.array(our_losses) / np.array(losses) - 1).max()
    fidelity(SECTION, 'loss of each step', error, 1e-3, 'relative error')

    got, wanted = arrays(ours.state_dict()), in_our_terms(theirs.state_dict())
    of_norms = {key for key in wanted if key.endswith(('._mean', '._variance'))}
    differences = {key: got[key] - wanted[key] for key in wanted.keys() - of_norms}
    error = max(np.abs(value).max() for value in differences.values())
    fidelity(SECTION, 'final weights', error, 1e-3, ABSOLUTE)
    error = length(differences.values()) / length(wanted[key] - initial[key] for key in differences)
    fidelity(SECTION, 'what all weights learned', error, 1e-2, 'length of the difference / length of the change')
    error = max(difference(got[key], wanted[key]) for key in of_norms)
    fidelity(SECTION, 'BatchNorm’s running statistics (1/n of the biased variance is 2.4e-4 here)', error, 5e-3)

    got, wanted = arrays(our_average.state_dict()), in_our_terms(average.state_dict())
    error = max(np.abs(got[key] - wanted[key]).max() for key in wanted)
    fidelity(SECTION, 'averaged weights and statistics, decay 0.9', error, 1e-3, ABSOLUTE)
    x = image(9, BATCH, SIZE)
    ours.eval(), theirs.eval()
    with paddle.no_grad(), original.torch.no_grad():
        error = difference(ours(to_paddle(x)), theirs(original.torch.from_numpy(x)))
    fidelity(SECTION, 'evaluation of the final weights', error, 1e-3)


def length(vectors):
    """Euclidean length of all these arrays taken as one vector."""
    return np.sqrt(sum(np.square(v, dtype='float64').sum() for v in vectors))
