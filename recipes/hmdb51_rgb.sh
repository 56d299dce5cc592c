#!/usr/bin/env bash
# HMDB51, RGB: segments, few videos and ImageNet weights (TSN, Wang et al., ECCV 2016), with InceptionV3.
#
#   ROOT=/data/hmdb51/root SAVE_ROOT=/data/runs bash recipes/hmdb51_rgb.sh
#   ... bash recipes/hmdb51_rgb.sh --init_from=/data/runs/kinetics400-rgb/checkpoint_094000.pth   # from Kinetics
#
# UCF101's recipe with the same number of epochs (47). With it, MMAction2's ResNet-50 reaches 48.9 % on split 1, and
# 56.1 % from Kinetics. Against over-fitting, all batch norms but the first are frozen, and dropout is high. We have not
# run this yet.
set -euo pipefail
: "${ROOT:?data root}" "${SAVE_ROOT:?folder of the runs}"

${LAUNCH:-python} train.py --root="$ROOT" --save_root="$SAVE_ROOT" --dataset=hmdb51 --input_type=rgb --run=hmdb51-rgb \
    --arch=inception_v3 --num_segments=3 --crop=corners --crop_scales=1,0.875,0.75,0.66 --batch_size=128 --accumulate=4 \
    --lr=0.001 --max_iterations=1300 --stepvalues=560,1100 --gamma=0.1 --weight_decay=0.0005 --norm_decay=False \
    --dropout=0.8 --clip_norm=40 --batch_norm=partial --amp=bf16 --channels_last --workers=12 --val_interval=200 \
    --keep_checkpoints=3 --resume=auto "$@"
python test.py --root="$ROOT" --save_root="$SAVE_ROOT" --input_type=rgb --run=hmdb51-rgb \
    --num_clips=25 --views=ten
