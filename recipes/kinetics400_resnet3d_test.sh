#!/usr/bin/env bash
# Kinetics-400: the I3D-ResNet-50 of video-nonlocal-net, scored as the eval.py of Tushar-N/pytorch-resnet3d does.
#
#   VIDEOS=... LISTS=... ROOT=/data/kinetics bash recipes/kinetics400_prepare.sh --input_types=rgb
#   twostream fetch i3d_baseline_32x2_IN_pretrain_400k
#   ROOT=/data/kinetics SAVE_ROOT=/data/runs/i3d bash recipes/kinetics400_resnet3d_test.sh
#
# Its README has, for 18,434 videos: "A: 0.722 | clf: 1.158" with --mode video, "A: 0.647 | clf: 1.551" with --mode clip. Pictures
# of 256 on the short side, and logits averaged. Video mode: ten clips from the first to the last, three crops of 256, which are
# random there, and the left, middle and right one here. Clip mode: the middle clip, the middle crop. The weights were trained on
# every second of 30 frames a second: these are neighbours at 15 a second (--gap=1). We have not run this yet.
set -euo pipefail
: "${ROOT:?data root}" "${SAVE_ROOT:?folder of the scores}"

I3D=(--root="$ROOT" --input_type=rgb --weights="${WEIGHTS:-pretrained/i3d_baseline_32x2_IN_pretrain_400k.pth}"
    --arch=i3d_r50 --clip_len=32 --gap=1 --test_size=256 --consensus=mean)
python test.py "${I3D[@]}" --save_root="$SAVE_ROOT/video" --num_clips=10 --spread=ends --views=three "$@"
python test.py "${I3D[@]}" --save_root="$SAVE_ROOT/clip" --num_clips=1 --views=centre "$@"
