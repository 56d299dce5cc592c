#!/usr/bin/env bash
# Kinetics-400: VMZ's published R(2+1)D-34 for clips of 32 frames on RGB and flow, by dense prediction, and their fusion.
#
#   VIDEOS=... LISTS=... ROOT=/data/kinetics128 bash recipes/kinetics400_prepare.sh --short_side=128 --fps=0
#   twostream fetch r2.5d_d34_l32_ft_sports1m
#   twostream fetch r2.5d_d34_l32_ft_sports1m_optical_flow
#   ROOT=/data/kinetics128 SAVE_ROOT=/data/runs/vmz_dense bash recipes/kinetics400_vmz_dense.sh
#
# VMZ's table (tutorials/models.md): 74.2 % of the videos on RGB and 68.2 % on flow; its paper (Tran et al., CVPR 2018) has
# 75.4 % for both. This is extract_features.py, dense_prediction_aggregation.py and dense_prediction_fusion.py: a clip at
# every frame, softmax averaged by video. VMZ does not say at which step its lists begin clips; STEP changes it here. Its flow
# is that of its own operator, so farneback will give another accuracy. We have not run this yet.
set -euo pipefail
: "${ROOT:?data root}" "${SAVE_ROOT:?folder of the scores}"

RGB=r2.5d_d34_l32_ft_sports1m FLOW=r2.5d_d34_l32_ft_sports1m_optical_flow
python test.py --root="$ROOT" --save_root="$SAVE_ROOT" --input_type=rgb --weights="pretrained/$RGB.pth" \
    --arch=vmz_r2plus1d_34 --clip_len=32 --clip_step="${STEP:-1}" --views=centre --consensus=softmax-mean "$@"
python test.py --root="$ROOT" --save_root="$SAVE_ROOT" --input_type=farneback --weights="pretrained/$FLOW.pth" \
    --arch=vmz_r2plus1d_34 --clip_len=32 --clip_step="${STEP:-1}" --views=centre --consensus=softmax-mean
python eval.py --scores "$SAVE_ROOT/scores_val_$RGB.npz" "$SAVE_ROOT/scores_val_$FLOW.npz" --consensus=softmax-mean \
    --report="$SAVE_ROOT/report.json"
