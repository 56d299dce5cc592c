#!/usr/bin/env bash
# Kinetics-400, RGB: segments (TSN, Wang et al., ECCV 2016) with InceptionV3.
#
#   ROOT=/data/kinetics SAVE_ROOT=/data/runs bash recipes/kinetics400_rgb.sh
#   LAUNCH="torchrun --nproc_per_node=8" ROOT=... SAVE_ROOT=... bash recipes/kinetics400_rgb.sh --accumulate=1
#
# TSN's own InceptionV3 reaches 72.5 % of the validation videos (25 frames, 10 crops). The schedule is MMAction2's for
# ResNet-50 (70.9 %): 100 epochs of 240,000 videos in batches of 256, learning rate 0.01, divided by ten after 40 and 80
# epochs. We have not run this yet.
set -euo pipefail
: "${ROOT:?data root}" "${SAVE_ROOT:?folder of the runs}"

${LAUNCH:-python} train.py --root="$ROOT" --save_root="$SAVE_ROOT" --dataset=kinetics400 --input_type=rgb \
    --run=kinetics400-rgb --arch=inception_v3 --num_segments=3 --crop=corners --crop_scales=1,0.875,0.75,0.66 \
    --batch_size=256 --accumulate=4 --lr=0.01 --max_iterations=94000 --stepvalues=37500,75000 --gamma=0.1 \
    --weight_decay=0.0001 --dropout=0.4 --clip_norm=40 --amp=bf16 --channels_last --workers=12 --val_interval=9400 \
    --save_interval=940 --keep_checkpoints=3 --resume=auto "$@"
python test.py --root="$ROOT" --save_root="$SAVE_ROOT" --input_type=rgb --run=kinetics400-rgb \
    --num_clips=25 --views=ten
