#!/usr/bin/env bash
# Kinetics-400: torchvision's published R(2+1)D-18, scored as its reference does with --test-only.
#
#   VIDEOS=... LISTS=... ROOT=/data/kinetics15 bash recipes/kinetics400_prepare.sh --input_types=rgb --short_side=128
#   twostream fetch r2plus1d_18
#   ROOT=/data/kinetics15 SAVE_ROOT=/data/runs/torchvision bash recipes/kinetics400_torchvision_test.sh
#
# torchvision states 67.463 % of the videos and 86.175 % in the top five, with 15 frames a second and five clips of 16 frames
# a video, from the first to the last. We have not run this yet.
set -euo pipefail
: "${ROOT:?data root}" "${SAVE_ROOT:?folder of the scores}"

python test.py --root="$ROOT" --save_root="$SAVE_ROOT" --input_type=rgb \
    --weights="${WEIGHTS:-pretrained/r2plus1d_18-91a641e6.pth}" --arch=r2plus1d_18 --clip_len=16 \
    --num_clips=5 --spread=ends --views=centre --consensus=softmax-mean "$@"
python eval.py --scores "$SAVE_ROOT/scores_val_r2plus1d_18-91a641e6.npz" --consensus=softmax-mean \
    --report="$SAVE_ROOT/report.json"
