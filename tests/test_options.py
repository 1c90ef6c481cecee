"""The flags that users' commands rely on: names, defaults and types, and what is said about flags that cannot be."""

import re

import pytest

import eval as eval_script
import export_model
import infer
import main
import predict
from conftest import ROOT, TINY_RUN, words

# every flag of the port whose interface this project keeps, with its default
TRAIN = """
    model=lvvit_t input_size=None nb_classes=1000 data_path=/datasets/imagenet/ cls_label_path_train=None
    cls_label_path_val=None num_workers=10 crop_pct=None use_amp=False resume= batch_size=64 epochs=300 accum_iter=1
    drop=0.0 drop_path=None model_ema=False model_ema_decay=0.9999 model_ema_eval=False seed=0 opt=adamw opt_eps=1e-08
    opt_betas=None momentum=0.9 clip_grad=None weight_decay=0.05 blr=0.0008 lr=None warmup_lr=1e-06 min_lr=1e-05
    warmup_epochs=5 cooldown_epochs=10 t_in_epochs=False color_jitter=0.4 aa=rand-m9-mstd0.5-inc1
    train_interpolation=bicubic reprob=0.25 remode=pixel recount=1 smoothing=0.1 mixup=0.8 cutmix=1.0
    cutmix_minmax=None mixup_prob=1.0 mixup_switch_prob=0.5 mixup_mode=batch token_label=False token_label_data=
    token_label_size=None dense_weight=1.0 cls_weight=1.0 ground_truth=False finetune= remove_head_from_pretained=False
    resume_ema= start_epoch=0 eval=False dist_eval=False debug=False output_dir= log_file= log_wandb=False
    wandb_entity=None wandb_project=None
"""
INFER = """
    input_size=None crop_pct=None batch_size=1 use_gpu=True precision=fp32 ir_optim=True use_tensorrt=False gpu_mem=8000
    enable_benchmark=False enable_mkldnn=None cpu_threads=None topk=5 label_list=None save_json=
"""
INFER_NEEDED = '--model_file m --params_file p --input_file i'


@pytest.mark.parametrize('script, needed, defaults', [(main, '', TRAIN), (infer, INFER_NEEDED, INFER)])
def test_each_flag_keeps_its_name_and_default(script, needed, defaults):
    args = vars(script.parser().parse_args(needed.split()))
    for expected in defaults.split():
        name, value = expected.split('=')
        assert name in args and str(args[name]) == value, name


def test_values_are_read_as_the_right_type():
    flags = '--lr 1.6e-3 --clip_grad 1 --opt_betas 0.9 0.95 --cutmix_minmax 0.2 0.8 --train_scale 0.5 1 --epochs 7'
    args = main.parser().parse_args(flags.split())
    assert (args.lr, args.opt_betas, args.cutmix_minmax, args.train_scale) == (
        1.6e-3,
        [0.9, 0.95],
        [0.2, 0.8],
        [0.5, 1],
    )
    assert type(args.clip_grad) is float and type(args.epochs) is int
    for word, value in ('True', True), ('true', True), ('1', True), ('False', False), ('0', False):
        assert infer.parser().parse_args([*INFER_NEEDED.split(), '--use_gpu', word]).use_gpu is value


@pytest.mark.parametrize('flag', 'model_ema model_ema_eval use_amp t_in_epochs remove_head_from_pretained'.split())
def test_switches_have_a_no_form_and_the_last_one_wins(flag):
    for last, value in (f'--{flag}', True), (f'--no_{flag}', False):
        assert vars(main.parser().parse_args([f'--no_{flag}', f'--{flag}', last]))[flag] is value


PUBLISHED = (
    '--model lvvit_t --drop_path 0.1 --use_amp --batch_size 128 --warmup_epochs 5 --cooldown_epochs 10 --lr 1.6e-3 '
    '--warmup_lr 1e-6 --min_lr 1e-5 --t_in_epochs --mixup 0 --cutmix 0 --train_interpolation random --token_label '
    '--token_label_data DIR --token_label_size 14 --data_path IMAGENET --cls_label_path_train train_list.txt '
    '--cls_label_path_val val_list.txt --crop_pct 0.9 --dist_eval'
)


COMMANDS = [
    (main, PUBLISHED + ' --output_dir output/lvvit_t/'),
    (eval_script, '--model lvvit_t --batch_size 512 --crop_pct 0.9 --data_path D --resume CKPT --dist_eval'),
    (predict, '--model lvvit_t --crop_pct 0.9 --infer_imgs A B --resume CKPT'),
    (export_model, '--model lvvit_t --output_dir DIR --resume CKPT'),
    (infer, '--model_file DIR/model.pdmodel --params_file DIR/model.pdiparams --input_file A B'),
]


@pytest.mark.parametrize('script, command', COMMANDS)
def test_the_published_commands_are_understood_and_the_help_is_complete(run, script, command):
    script.parser().parse_args(command.split())
    assert '--' in run(script, '--help').out
    result = run(script, *words(command, '--no_such_flag'))
    assert result.code == 2 and result.err.count('\n') == 1 and '--no_such_flag' in result.err


def test_predict_has_the_demos_photo_as_its_default():
    (path,) = predict.parser().parse_args([]).infer_imgs
    assert path == str(ROOT / 'demo' / 'chelsea.png') and (ROOT / 'demo' / 'chelsea.png').exists()


def test_flags_with_two_names():
    assert export_model.parser().parse_args(['--output', 'DIR']).output_dir == 'DIR'
    assert eval_script.parser().parse_args(['--train_interpolation', 'bilinear']).interpolation == 'bilinear'
    args = infer.parser().parse_args('--model_file m --params_file p --infer_imgs i -b 3'.split())
    assert args.input_file == ['i'] and args.batch_size == 3
    args = infer.parser().parse_args(f'{INFER_NEEDED} -c x.yml --train_interpolation random'.split())
    assert (args.config, args.interpolation) == ('x.yml', 'random')


MIX_TOKEN = [
    (PUBLISHED, True),
    ('--token_label', False),  # Mixup and CutMix mix already
    ('--token_label --mixup 0 --cutmix 0 --cutmix_minmax 0.2 0.8', False),
    ('--token_label --mix_token', True),  # unless told so
    ('--token_label --mixup 0 --cutmix 0 --no_mix_token', False),
    ('--mixup 0 --cutmix 0', False),  # without token labels nothing asks for it
    ('--mixup 0 --cutmix 0 --mix_token', True),
]


@pytest.mark.parametrize('flags, used', MIX_TOKEN)
def test_mix_token_is_on_with_token_labels_when_nothing_else_mixes(run, flags, used):
    result = run(main, *words(flags, '--token_label_data DIR --token_label_size 14 --data_path /nowhere'))
    assert '/nowhere' in result.err, 'the recipe contradicts itself nowhere'
    assert f'"mix_token": {str(used).lower()},' in result.out, 'which the line of arguments says'


# ---- what cannot be: flags of main.py; what the one line says

WRONG = """
--token_label                                                       --token_label_data
--token_label --token_label_data DIR --token_label_size 3           --token_label_size 3: lvvit_nano has 2 tokens a side
--token_label --token_label_data D --token_label_size 14 --input_size 384   lvvit_nano has 24 tokens a side
--token_pool_weight 1 --model lvvit                                 --token_pool_weight
--ground_truth always                                               --ground_truth
--batch_size 0                                                      --batch_size
--print_freq 0                                                      --print_freq
--batch_size x                                                      --batch_size
--seed -1                                                           --seed
--warmup_epochs many                                                --warmup_epochs
--opt lion                                                          --opt lion
--aa augmix-m3                                                      --aa augmix-m3
--aa original-m3                                                    --aa original-m3
--mean 1 2 3 --std 1 0 1                                            --std [1.0, 0.0, 1.0]
--mixup_mode all                                                    --mixup_mode all
--remode noise                                                      --remode noise
--train_interpolation cubic                                         --train_interpolation cubic
--interpolation cubic                                               --interpolation cubic
--cutmix_minmax 0.5                                                 --cutmix_minmax
--crop_pct 1.5                                                      --crop_pct 1.5
--model lvvit_xxl                                                   invalid choice: 'lvvit_xxl' (choose from
--input_size 40                                                     img_size 40 must be a multiple of patch_size 16
--batch_size 41                                                     --batch_size 41
--batch_size 16 --accum_iter 3                                      --accum_iter 3
"""


@pytest.mark.parametrize('flags, says', [re.split(' {2,}', line) for line in WRONG.strip().splitlines()])
def test_flags_that_cannot_be_give_one_line(refused, scenes, tiny, flags, says):
    assert says in refused(main, *words(TINY_RUN, '--data_path', scenes, flags))


COUNTS = [
    (eval_script, '--batch_size'),
    (predict, '--infer_imgs x --batch_size'),
    (predict, '--infer_imgs x --topk'),
    (infer, INFER_NEEDED + ' -b'),
    (infer, INFER_NEEDED + ' --topk'),
]


@pytest.mark.parametrize('script, flags', COUNTS)
def test_a_count_of_0_is_turned_down(refused, script, flags):
    assert flags.split()[-1] in refused(script, *words(flags), 0)
