#!/usr/bin/env bash
# Kinetics-400, flow: stacks of five flow images from three segments, InceptionV3.
#
#   ROOT=/data/kinetics SAVE_ROOT=/data/runs bash recipes/kinetics400_flow.sh   # after kinetics400_rgb.sh
#
# TSN's own InceptionV3 reaches 62.8 % of the validation videos on TV-L1 flow, and 76.6 % together with RGB. The schedule
# is MMAction2's for ResNet-50 (55.7 % on TV-L1 flow): 110 epochs in batches of 512, learning rate 0.005, divided by ten
# after 70 and 100 epochs. The first layer starts from the mean of ImageNet's over R, G, B (cross-modality, TSN). We have
# not run this yet.
set -euo pipefail
: "${ROOT:?data root}" "${SAVE_ROOT:?folder of the runs}"

${LAUNCH:-python} train.py --root="$ROOT" --save_root="$SAVE_ROOT" --dataset=kinetics400 --input_type=farneback \
    --run=kinetics400-flow --arch=inception_v3 --seq_len=5 --num_segments=3 --crop=corners --crop_scales=1,0.875,0.75 \
    --batch_size=512 --accumulate=8 --lr=0.005 --max_iterations=51600 --stepvalues=32800,46900 --gamma=0.1 \
    --weight_decay=0.0001 --dropout=0.7 --clip_norm=40 --amp=bf16 --channels_last --workers=12 --val_interval=4690 \
    --save_interval=469 --keep_checkpoints=3 --resume=auto "$@"
python test.py --root="$ROOT" --save_root="$SAVE_ROOT" --input_type=farneback --run=kinetics400-flow \
    --num_clips=25 --views=ten
python eval.py --save_root="$SAVE_ROOT" --runs=kinetics400-rgb,kinetics400-flow
