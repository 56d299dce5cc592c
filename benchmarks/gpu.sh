#!/usr/bin/env bash
# Measurements on one GPU, in order of worth, for a card that is lent for minutes.
#
#   bash benchmarks/gpu.sh SECONDS [FOLDER] [VIDEO]
#   ONLY='preparation|stopped' bash benchmarks/gpu.sh SECONDS [FOLDER] [VIDEO]     # rows whose names match
#
# Prints one table, a row as soon as it is known, and ends within SECONDS. FOLDER (default: gpu-results) keeps the table
# and what each benchmark printed. VIDEO is what flow and preparation are measured on; without it they get generated
# pictures. A step that does not fit into the time is cut off: the rows it printed count. Needs no network. Without
# ffmpeg, preparation is skipped. PYTHON is the interpreter (default: python3).
set -u
if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: bash benchmarks/gpu.sh SECONDS [FOLDER] [VIDEO]" >&2
    exit 2
fi
end=$((SECONDS + $1))
python=${PYTHON:-python3}
mkdir -p "${2:-gpu-results}" || exit 3
folder=$(cd "${2:-gpu-results}" && pwd)
video=${3:+$(realpath "$3")}
cd "$(dirname "$0")/.." || exit 3
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
cores=$(nproc)
step=
trap '[[ -n $step ]] && kill "$step"; exit 143' INT TERM

row() { echo "| $1 | $2 | $3 |" | tee -a "$folder/table.md"; }

# measure NAME LIMIT ROWS COLUMN UNIT COMMAND...: runs a command for at most LIMIT seconds, and makes a row of each line
# of its output that matches ROWS, the value from a COLUMN of this line (0: the line itself).
measure() {
    local name=$1 limit=$2 rows=$3 column=$4 unit=$5 log="$folder/${1//[^a-z0-9]/-}.txt" left=$((end - SECONDS)) code note=
    shift 5
    [[ $name =~ ${ONLY:-.} ]] || return
    if ((left < 5)); then
        row "$name" "not measured: no time left" ""
        return
    fi
    ((limit < left)) || limit=$((left > 15 ? left - 5 : left)) # a program that goes on after SIGTERM gets 5 more
    timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1 &
    step=$!
    wait "$step"
    code=$?
    step=
    ((code == 124 || code == 137)) && note="cut off after $limit s"
    ((code == 0 || code == 124 || code == 137)) || note="exit code $code: $(tail -n 1 "$log" | tr '|' ' ' | cut -c 1-200)"
    grep -E "$rows" "$log" | awk -F ' *[|] *' -v name="$name" -v value="$((column ? column + 1 : 0))" -v unit="$unit" '
        { printf "| %s | %s | %s |\n", value ? name ": " $2 ", " $3 : name, $value, unit }' | tee -a "$folder/table.md"
    [[ -z $note ]] || row "$name" "$note" ""
}

: >"$folder/table.md"
about='import cv2, platform, sys, torch
if not torch.cuda.is_available(): sys.exit("no GPU")
print(f"{torch.cuda.get_device_name()}, Python {platform.python_version()}, torch {torch.__version__}, OpenCV {cv2.__version__}")'
if ! card=$("$python" -c "$about" 2>&1); then
    echo "benchmarks/gpu.sh: $(tail -n 1 <<<"$card"), expected a GPU that torch can use" >&2
    exit 4
fi
printf '%s, %s cores, %s\n\n| measurement | result | |\n|---|---|---|\n' "$card" "$cores" "$(date -u +%F)" |
    tee -a "$folder/table.md"

ffmpeg=$("$python" -c 'from twostream.video.ffmpeg import find_ffmpeg; print(find_ffmpeg())' 2>/dev/null)
if [[ -n $ffmpeg && -z $video ]]; then
    video=$folder/clip.mp4
    "$ffmpeg" -nostdin -y -loglevel error -f lavfi -i testsrc2=size=340x256:rate=30 -frames:v 280 -pix_fmt yuv420p "$video"
fi
inception=("$python" benchmarks/train.py --arch=inception_v3 "--workers=$cores")
fast=(--amp=bf16 --channels_last)

measure "flow" 90 '^[|] (default|2d-kinectics): ' 3 "pairs/s" \
    "$python" benchmarks/flow.py --device=cuda --pairs=60 --repeats=3 ${ffmpeg:+--video="$video"}
measure "training, bf16, channels_last" 120 '^[|] [0-9]+ [|] [a-z-]+ [|]' 3 "images/s" \
    "${inception[@]}" "${fast[@]}" --batch_size=64,256 --data=synthetic,flow,online,online-in-turn --iterations=30
if [[ -n $ffmpeg ]]; then
    measure "preparation with RGB and flow" 90 '^[|] (device|cores[a-z-]*) [|] [0-9,]+ [|]' 3 "CPU ms a frame, and frames/s" \
        "$python" benchmarks/prep.py --video="$video" --only=device,cores-rgb,cores-decode --flow_device=cuda \
        --copies=96 --repeats=1
    measure "prediction from videos" 60 '^[|] resnet18 [|] farneback [|]' 3 "real time, by both streams" \
        "$python" benchmarks/predict.py --video="$video" --arch=resnet18 --device=cuda --copies=64 --repeats=2
elif [[ preparation =~ ${ONLY:-.} ]]; then
    row "preparation with RGB and flow, prediction" "not measured: no ffmpeg" ""
fi
# What the plain command does in a long run; to compile takes minutes where the CPUs are slow.
measure "training, compiled" 240 '^[|] [0-9]+ [|] [a-z]+ [|]' 3 "images/s" \
    "${inception[@]}" "${fast[@]}" --compile=reduce-overhead --batch_size=64 --data=synthetic --iterations=60
measure "trainings stopped and resumed" 130 '^[0-9]+ trials' 0 "" \
    "$python" tests/training_kills.py --device=cuda --trials=40 --at_once="$((cores / 2))" --seconds=110
measure "training, deterministic" 60 '^[|] [0-9]+ [|]' 3 "images/s; then s of saving iterations" \
    "${inception[@]}" "${fast[@]}" --batch_size=64,256 --data=synthetic --iterations=30 --deterministic --save
measure "compilation in mid-run" 90 '^([|] [0-9]+ [|] [a-z]+ [|]|warning)' 3 "images/s" \
    "$python" benchmarks/train.py --arch=resnet18 "${fast[@]}" --batch_size=64 --data=synthetic --iterations=100 \
    --warm_up=30 --compile=auto
measure "tests that need a GPU" 90 '(passed|failed).* in ' 0 "" \
    "$python" -m pytest -q -p no:cacheprovider -k "on_a_gpu or for_the_gpu or farneback_kernels" \
    tests/flow tests/engine/test_loops.py tests/clips/test_online_flow.py tests/programs/test_extract.py
measure "scoring by the inference copy" 30 '^[|] [a-z0-9_]+ [|] [0-9.]+ [|]' 3 "clips/s" \
    "$python" benchmarks/inference_copy.py --device=cuda --batch_size=64
measure "training, large batches compiled" 240 '^[|] [0-9]+ [|] [a-z]+ [|]' 3 "images/s" \
    "${inception[@]}" "${fast[@]}" --compile=reduce-overhead --batch_size=256 --data=synthetic --iterations=30
measure "training without options" 40 '^[|] [0-9]+ [|] [a-z]+ [|]' 3 "images/s" \
    "${inception[@]}" --batch_size=64 --data=synthetic --iterations=30
