#!/usr/bin/env bash
# Kinetics-400, clips of RGB: VMZ's R(2+1)D-18 on clips of 8 frames, by the parameters of its training script for two GPUs.
#
#   VIDEOS=... LISTS=... ROOT=/data/kinetics128 bash recipes/kinetics400_prepare.sh --input_types=rgb --short_side=128 --fps=0
#   LAUNCH="torchrun --nproc_per_node=2" ROOT=/data/kinetics128 SAVE_ROOT=/data/runs bash recipes/kinetics400_vmz.sh
#
# The paper (Tran et al., CVPR 2018) reaches 72.0 % with 34 layers and clips of 32 frames. 35 epochs of a million clips, 32 a
# GPU, from frames at the rate of the video (--fps=0), squeezed to 128x171; the learning rate of 0.01 is divided by ten every 10 epochs. Ten clips
# of each video are scored. We have not run this yet.
set -euo pipefail
: "${ROOT:?data root}" "${SAVE_ROOT:?folder of the runs}"

${LAUNCH:-python} train.py --root="$ROOT" --save_root="$SAVE_ROOT" --dataset=kinetics400 --input_type=rgb \
    --run=kinetics400-vmz --arch=vmz_r2plus1d_18 --pretrained=False --clip_len=8 --clips_per_video=1 --resize_side=128x171 \
    --batch_size=64 --lr=0.01 --epochs=35 --epoch_size=1000000 --step_epochs=10,20,30 --gamma=0.1 --weight_decay=0.0001 \
    --dropout=0 --amp=bf16 --channels_last --workers=12 --val_epochs=1 --save_interval=1000 --keep_checkpoints=3 \
    --resume=auto "$@"
python test.py --root="$ROOT" --save_root="$SAVE_ROOT" --input_type=rgb --run=kinetics400-vmz \
    --num_clips=10 --views=centre
