#!/usr/bin/env bash
# Kinetics-400: VMZ's published R(2+1)D-18 for clips of 8 frames, scored as its test script does.
#
#   VIDEOS=... LISTS=... ROOT=/data/kinetics128 bash recipes/kinetics400_prepare.sh --input_types=rgb --short_side=128 --fps=0
#   twostream fetch r2.5d_d18_l8
#   ROOT=/data/kinetics128 SAVE_ROOT=/data/runs/vmz bash recipes/kinetics400_vmz_test.sh
#
# VMZ's table (tutorials/models.md): 53.2 % of the clips, 65.3 % of the videos by ten clips each, 85.2 % in the top five. Ten
# clips from the first to the last, in the centre; their softmax is averaged. Its classes are in alphabetical order, as those
# of the annotations. We have not run this yet.
set -euo pipefail
: "${ROOT:?data root}" "${SAVE_ROOT:?folder of the scores}"

python test.py --root="$ROOT" --save_root="$SAVE_ROOT" --input_type=rgb \
    --weights="${WEIGHTS:-pretrained/r2.5d_d18_l8.pth}" --arch=vmz_r2plus1d_18 --clip_len=8 \
    --num_clips=10 --spread=ends --views=centre --consensus=softmax-mean "$@"
python eval.py --scores "$SAVE_ROOT/scores_val_r2.5d_d18_l8.npz" --consensus=softmax-mean --report="$SAVE_ROOT/report.json"
