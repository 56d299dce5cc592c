#!/usr/bin/env bash
# UCF101, flow: stacks of five flow images from three segments (TSN, Wang et al., ECCV 2016), with InceptionV3.
#
#   ROOT=/data/ucf101/root SAVE_ROOT=/data/runs bash recipes/ucf101_flow.sh   # after ucf101_rgb.sh
#
# TSN reaches 87.9 % on split 1 with BN-Inception on TV-L1 flow, and 93.5 % together with RGB. 18,000 iterations of 128
# videos. The first layer starts from the mean of ImageNet's over R, G, B and learns five times as fast. We have not run
# this yet.
set -euo pipefail
: "${ROOT:?data root}" "${SAVE_ROOT:?folder of the runs}"

${LAUNCH:-python} train.py --root="$ROOT" --save_root="$SAVE_ROOT" --dataset=ucf101 --input_type=farneback --run=ucf101-flow \
    --arch=inception_v3 --seq_len=5 --num_segments=3 --crop=corners --crop_scales=1,0.875,0.75 --batch_size=128 --accumulate=4 \
    --lr=0.005 --max_iterations=18000 --stepvalues=10000,16000 --gamma=0.1 --weight_decay=0.0005 --norm_decay=False \
    --dropout=0.7 --clip_norm=20 --batch_norm=partial --first_layer_factor=5 --amp=bf16 --channels_last --workers=12 \
    --val_interval=2000 --keep_checkpoints=3 --resume=auto "$@"
python test.py --root="$ROOT" --save_root="$SAVE_ROOT" --input_type=farneback --run=ucf101-flow \
    --num_clips=25 --views=ten
python eval.py --save_root="$SAVE_ROOT" --runs=ucf101-rgb,ucf101-flow
