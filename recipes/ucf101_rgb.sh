#!/usr/bin/env bash
# UCF101, RGB: segments, few videos and ImageNet weights (TSN, Wang et al., ECCV 2016), with InceptionV3.
#
#   ROOT=/data/ucf101/root SAVE_ROOT=/data/runs bash recipes/ucf101_rgb.sh
#   ... bash recipes/ucf101_rgb.sh --init_from=/data/runs/kinetics400-rgb/checkpoint_094000.pth   # from Kinetics
#
# TSN reaches 85.7 % on split 1 with BN-Inception (25 frames, 10 crops). 3,500 iterations of 128 videos. Against
# over-fitting, all batch norms but the first are frozen, and dropout is high. We have not run this yet.
set -euo pipefail
: "${ROOT:?data root}" "${SAVE_ROOT:?folder of the runs}"

${LAUNCH:-python} train.py --root="$ROOT" --save_root="$SAVE_ROOT" --dataset=ucf101 --input_type=rgb --run=ucf101-rgb \
    --arch=inception_v3 --num_segments=3 --crop=corners --crop_scales=1,0.875,0.75,0.66 --batch_size=128 --accumulate=4 \
    --lr=0.001 --max_iterations=3500 --stepvalues=1500,3000 --gamma=0.1 --weight_decay=0.0005 --norm_decay=False \
    --dropout=0.8 --clip_norm=40 --batch_norm=partial --amp=bf16 --channels_last --workers=12 --val_interval=500 \
    --keep_checkpoints=3 --resume=auto "$@"
python test.py --root="$ROOT" --save_root="$SAVE_ROOT" --input_type=rgb --run=ucf101-rgb \
    --num_clips=25 --views=ten
