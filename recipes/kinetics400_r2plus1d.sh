#!/usr/bin/env bash
# Kinetics-400, clips of RGB: torchvision's R(2+1)D-18 by the parameters of its reference training on 8 GPUs.
#
#   VIDEOS=... LISTS=... ROOT=/data/kinetics128 bash recipes/kinetics400_prepare.sh --input_types=rgb --short_side=128 --fps=0
#   LAUNCH="torchrun --nproc_per_node=8" ROOT=/data/kinetics128 SAVE_ROOT=/data/runs bash recipes/kinetics400_r2plus1d.sh
#
# torchvision reports 67.5 % of the validation videos, from five clips each. 45 epochs of five clips a video, of 16 frames
# at 15 a second, whatever the rate of the video, from pictures squeezed to 128x171; 24 clips a GPU, with a learning rate
# of 0.01 times the number of GPUs, which grows over 10 epochs and is divided by ten after 20, 30 and 40. Decay of biases
# and their learning rate are ours. We have not run this yet.
set -euo pipefail
: "${ROOT:?data root}" "${SAVE_ROOT:?folder of the runs}"

${LAUNCH:-python} train.py --root="$ROOT" --save_root="$SAVE_ROOT" --dataset=kinetics400 --input_type=rgb \
    --run=kinetics400-r2plus1d --arch=r2plus1d_18 --pretrained=False --clip_len=16 --frame_rate=15 --clips_per_video=5 \
    --resize_side=128x171 --batch_size=192 --lr=0.01 --lr_batch_size=24 --epochs=45 --warm_up_epochs=10 \
    --step_epochs=20,30,40 --gamma=0.1 --weight_decay=0.0001 --dropout=0 --sync_bn --amp=bf16 --channels_last --workers=12 \
    --val_epochs=1 --save_interval=1000 --keep_checkpoints=3 --resume=auto "$@"
python test.py --root="$ROOT" --save_root="$SAVE_ROOT" --input_type=rgb --run=kinetics400-r2plus1d \
    --num_clips=5 --views=centre
