#!/usr/bin/env bash
# Kinetics-400: frames and flow images, then annotations. Days on one machine; kill and repeat it as you like.
#
#   VIDEOS=/data/kinetics400/videos LISTS=/data/kinetics400 ROOT=/data/kinetics bash recipes/kinetics400_prepare.sh
#
# LISTS has the release's train.csv and val.csv. 15 frames per second, short side 256; flow for every frame, since
# stacks of five are read.
set -euo pipefail
: "${VIDEOS:?folder of the videos}" "${LISTS:?folder of train.csv and val.csv}" "${ROOT:?data root to write}"

python prep/extract.py --videos="$VIDEOS" --root="$ROOT" --input_types=rgb,farneback --short_side=256 --fps=15 \
    --store=packed "$@" || [ $? -eq 5 ]  # 5: some videos are damaged, and listed
python prep/build_annotations.py --root="$ROOT" --format=kinetics_csv --list "$LISTS/train.csv" "$LISTS/val.csv"
