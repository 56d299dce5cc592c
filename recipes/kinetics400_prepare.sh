#!/usr/bin/env bash
# Kinetics-400: frames and flow images, then annotations. Takes days on one machine; it can be stopped and run again at any
# time.
#
#   VIDEOS=/data/kinetics400/videos LISTS=/data/kinetics400 ROOT=/data/kinetics bash recipes/kinetics400_prepare.sh
#
# LISTS has the release's train.csv and val.csv. 15 frames per second, short side 256; flow for every frame, because the
# flow network reads stacks of five.
set -euo pipefail
: "${VIDEOS:?folder of the videos}" "${LISTS:?folder of train.csv and val.csv}" "${ROOT:?data root to write}"

python prep/extract.py --videos="$VIDEOS" --root="$ROOT" --input_types=rgb,farneback --short_side=256 --fps=15 \
    --store=packed "$@" || [ $? -eq 5 ]  # 5: some videos are damaged; they are listed
python prep/build_annotations.py --root="$ROOT" --format=kinetics_csv --list "$LISTS/train.csv" "$LISTS/val.csv"
