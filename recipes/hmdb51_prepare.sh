#!/usr/bin/env bash
# HMDB51: frames and flow images, then annotations of one of its three splits.
#
#   VIDEOS=/data/hmdb51/videos LISTS=/data/hmdb51/testTrainMulti_7030_splits ROOT=/data/hmdb51/root bash recipes/hmdb51_prepare.sh
#
# SPLIT=2 or SPLIT=3 gives the annotations of the other splits; the images are the same.
set -euo pipefail
: "${VIDEOS:?folder of the videos}" "${LISTS:?folder of the split files}" "${ROOT:?data root to write}"

python prep/extract.py --videos="$VIDEOS" --root="$ROOT" --input_types=rgb,farneback --short_side=256 "$@" || [ $? -eq 5 ]
python prep/build_annotations.py --root="$ROOT" --format=hmdb51 --list "$LISTS" --split="${SPLIT:-1}"
