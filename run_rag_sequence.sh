#!/usr/bin/env bash
#
# From passages and questions to a fine-tuned RAG model, and a table of how much better it got.
#
#   ./run_rag_sequence.sh                          the starter model on the chemical elements, in minutes
#   PASSAGES=my/passages.tsv TRAIN_FILE=my/train.json ./run_rag_sequence.sh
#   ./run_rag_sequence.sh -- --num_train_epochs 3 --n_docs 5
#
# Whatever follows -- is handed to `rag-finetune train`. Steps already done in OUTPUT_DIR are skipped, an
# interrupted training goes on from its last checkpoint; remove a folder there to do its step again, from the same
# inputs or from others, and with it those of the later steps.
# run_rag_token.sh is the same with RAG-Token. Variables, each with its default:
#
#   PASSAGES          the knowledge base: a file or a folder          data/elements/passages.tsv
#   TRAIN_FILE        questions to train on                           data/elements/train.json
#   VALIDATION_FILE   questions that choose the best checkpoint       a part of TRAIN_FILE
#   TEST_FILE         questions for the table, answered four times    VALIDATION_FILE, else TRAIN_FILE
#   QUESTION_ENCODER  folder or Hub name                              facebook/dpr-question_encoder-single-nq-base
#   CONTEXT_ENCODER   folder or Hub name                              the one that goes with QUESTION_ENCODER or MODEL
#   GENERATOR         folder or Hub name, BART or T5                  facebook/bart-base
#   MODEL             a RAG checkpoint or its Hub name, used in place of QUESTION_ENCODER and GENERATOR
#   OUTPUT_DIR        where everything goes                           runs/rag_sequence or runs/rag_token
#   NUM_PROCESSES     processes to train on, one for each GPU         1
#
# With PASSAGES not given, VALIDATION_FILE and TEST_FILE are those of data/elements too, and the finished model also
# answers from an index of their counterfactual edition; with no network given either, the networks are those of
# data/starter, which can read and know nothing else.

set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

model_type=rag_sequence
if [ "${1:-}" = "--rag_token" ]; then # run_rag_token.sh says so
    model_type=rag_token
    shift
fi
if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
    sed -n '3,/^$/ s/^# \{0,1\}//p' "$here/run_rag_sequence.sh"
    exit 0
fi
if [ $# -gt 0 ] && [ "$1" != "--" ]; then
    echo "error: unexpected argument '$1'. Flags of \`rag-finetune train\` follow --; --help explains the rest." >&2
    exit 2
fi
[ $# -eq 0 ] || shift

output=${OUTPUT_DIR:-runs/$model_type}
processes=${NUM_PROCESSES:-1}
other_passages=
recipe=
train_flags=(--model_type "$model_type")
compare_flags=(--output_dir "$output/evaluation")

case $processes in
'' | *[!0-9]* | 0)
    echo "error: NUM_PROCESSES must be a number from 1 up, found '$processes'." >&2
    exit 2
    ;;
esac
if [ -n "${PASSAGES:-}" ] && [ -z "${TRAIN_FILE:-}" ]; then
    echo "error: PASSAGES is set and TRAIN_FILE is not: which questions are to be trained on?" >&2
    exit 2
fi
if [ -z "${PASSAGES:-}" ] && [ -n "${TRAIN_FILE:-}" ]; then
    echo "error: TRAIN_FILE is set and PASSAGES is not: which passages hold the answers?" >&2
    exit 2
fi
for name in PASSAGES TRAIN_FILE VALIDATION_FILE TEST_FILE; do
    if [ -n "${!name:-}" ] && [ ! -e "${!name}" ]; then
        echo "error: $name is '${!name}': no such file." >&2
        exit 2
    fi
done
for name in MODEL QUESTION_ENCODER CONTEXT_ENCODER GENERATOR; do
    case ${!name:-} in
    /* | .* | */*/*) # a path: a name of the Hub has one slash at most
        if [ ! -d "${!name}" ]; then
            echo "error: $name is '${!name}': no such folder." >&2
            exit 2
        fi
        ;;
    esac
done

test_files=("${TEST_FILE:-${VALIDATION_FILE:-${TRAIN_FILE:-}}}")
if [ -z "${PASSAGES:-}" ]; then
    echo "No PASSAGES given: data/elements, the chemical elements."
    elements=$here/data/elements
    PASSAGES=$elements/passages.tsv
    TRAIN_FILE=$elements/train.json
    VALIDATION_FILE=${VALIDATION_FILE:-$elements/validation.json}
    test_files=("$elements/test.json" "$elements/test_unseen.json")
    [ -z "${TEST_FILE:-}" ] || test_files=("$TEST_FILE")
    compare_flags+=(--kind_pattern '^[^-]+-(.*?)(?:-[0-9]+)?$') # of krypton-melting_point-1: melting_point
    if [ -z "${TEST_FILE:-}" ]; then
        other_passages=$elements/passages_counterfactual.tsv
        compare_flags+=(--other_index "$output/index_counterfactual" --other_file "$elements/test_counterfactual.json")
    fi
    if [ -z "${MODEL:-}${QUESTION_ENCODER:-}${CONTEXT_ENCODER:-}${GENERATOR:-}" ]; then
        starter=$here/data/starter
        QUESTION_ENCODER=$starter/question_encoder
        CONTEXT_ENCODER=$starter/context_encoder
        GENERATOR=$starter/generator
        case " $* " in
        *" --config "* | *" --config="*) ;;
        *)
            recipe=$here/configs/elements_$model_type.yaml
            train_flags+=(--config "$recipe")
            ;;
        esac
        compare_flags+=(--batch_size 32) # networks so small have the room
        if [ ! -e "$GENERATOR/config.json" ]; then
            echo "error: the starter model is not here: $GENERATOR/config.json is missing. Make it with" \
                "data/starter/train_starter.py, or name networks: MODEL, or QUESTION_ENCODER and GENERATOR." >&2
            exit 1
        fi
    fi
fi
path_before=$PATH
# shellcheck source=.ci/environment.sh
source "$here/.ci/environment.sh" all bm25s matplotlib

question_encoder=${QUESTION_ENCODER:-facebook/dpr-question_encoder-single-nq-base}
context_encoder=${CONTEXT_ENCODER:-$(python -m rag_finetune.encoders.pairs "${MODEL:-$question_encoder}")}
if [ -z "$context_encoder" ] && [ -n "${MODEL:-}" ]; then
    echo "error: set CONTEXT_ENCODER: which one was the question encoder of $MODEL trained with?" >&2
    exit 2
elif [ -z "$context_encoder" ]; then
    context_encoder=$question_encoder
    echo "No CONTEXT_ENCODER given: $question_encoder encodes the passages too."
fi
generator=${GENERATOR:-facebook/bart-base}
if [ -n "${VALIDATION_FILE:-}" ]; then
    train_flags+=(--validation_file "$VALIDATION_FILE")
fi

# Nothing of OUTPUT_DIR/model may be lost that this script did not make.
for name in "${MODEL:-}" "$question_encoder" "$context_encoder" "$generator"; do
    if [ -d "$name" ] && [ -d "$output/model" ]; then
        case "$(cd "$name" && pwd -P)/" in
        "$(cd "$output/model" && pwd -P)"/*)
            echo "error: $name lies in $output/model, where the result is to go. Choose another OUTPUT_DIR." >&2
            exit 2
            ;;
        esac
    fi
done

# What each step was made from, by name and content, stands in OUTPUT_DIR/inputs: it is skipped for the same only.
sha256=(sha256sum)
command -v sha256sum >/dev/null || sha256=(shasum -a 256) # macOS
contents() { # of the file or folder $1, where it is one; what follows are conditions for `find`
    [ ! -e "$1" ] || echo "contents of $1: $(find -L "$@" -type f -exec "${sha256[@]}" {} + |
        LC_ALL=C sort | "${sha256[@]}" | cut -c 1-16)"
}
network() { # the contents of a folder with one
    contents "$1" -maxdepth 2 \( -name '*.json' -o -name '*.txt' -o -name '*.model' \
        -o -name '*.safetensors' -o -name '*.bin' \)
}
questions() {
    local name
    for name; do
        [ -z "$name" ] || contents "$name"
        contents "${name%.source}.target"
    done
}
list_inputs() { # of the step $1; what follows are the flags of train
    local step=$1 name
    shift
    case $step in
    index | index_counterfactual)
        name=$PASSAGES
        [ "$step" = index ] || name=$other_passages
        printf '%s\n' "PASSAGES=$name" "CONTEXT_ENCODER=$context_encoder"
        contents "$name" ! -name '.*'
        network "$context_encoder"
        ;;
    assembled)
        printf '%s\n' "MODEL_TYPE=$model_type" "QUESTION_ENCODER=$question_encoder" "GENERATOR=$generator"
        network "$question_encoder"
        network "$generator"
        ;;
    model)
        printf '%s\n' "MODEL_TYPE=$model_type" "MODEL=${MODEL:-$output/assembled}" "TRAIN_FILE=$TRAIN_FILE" \
            "VALIDATION_FILE=${VALIDATION_FILE:-}" "flags of train: $*"
        questions "$TRAIN_FILE" "${VALIDATION_FILE:-}"
        for name in "$recipe" "$@"; do # of the flags, those that name a file, as --config does
            [ ! -f "${name#--*=}" ] || contents "${name#--*=}"
        done
        [ -z "${MODEL:-}" ] || network "$MODEL"
        ;;
    evaluation)
        echo "TEST_FILE=${test_files[*]}"
        questions "${test_files[@]}"
        ;;
    esac
}
existing() { # those of these folders that are there, each after a space
    local folder
    for folder; do
        [ ! -e "$folder" ] || printf ' %s' "$folder"
    done
}
require_same() { # the folder $1 of OUTPUT_DIR is there: it and those that follow go, or its inputs are as they were
    local made=$output/$1 record=$output/inputs/$1.txt now
    now=$(list_inputs "$1" "${train_args[@]}")
    [ ! -e "$record" ] || [ "$now" != "$(cat "$record")" ] || return 0
    if [ ! -e "$record" ]; then
        echo "error: $made is not of this script. Choose another OUTPUT_DIR, or move it." >&2
        exit 2
    fi
    echo "error: $made was made from other inputs. Choose another OUTPUT_DIR, or remove $made$(existing "${@:2}")." >&2
    { diff "$record" <(echo "$now") || true; } | sed -n 's/^</  then:/p; s/^>/  now: /p' >&2
    exit 2
}
begins() { # the step $1: what it is made from
    mkdir -p "$output/inputs"
    list_inputs "$1" "${train_args[@]}" >"$output/inputs/$1.txt"
}
train_args=("$@")
[ ! -e "$output/index/manifest.json" ] || require_same index "$output/assembled" "$output/model"
[ -z "$other_passages" ] || [ ! -e "$output/index_counterfactual/manifest.json" ] || require_same index_counterfactual
[ -n "${MODEL:-}" ] || [ ! -e "$output/assembled/config.json" ] || require_same assembled "$output/model"
[ ! -e "$output/model" ] || require_same model
[ ! -e "$output/evaluation" ] || require_same evaluation

if [ ! -e "$output/model" ] && { [ -z "$recipe$other_passages" ] || [ $# -gt 0 ]; }; then
    echo "Looking at the questions and the flags of train before the first step."
    python -m rag_finetune train --dry_run --model_name_or_path "${MODEL:-$output/assembled}" \
        --train_file "$TRAIN_FILE" --output_dir "$output/model" "${train_flags[@]}" "$@"
fi

require_nothing_later() { # before $1 is made anew: the folders that follow were made from the former one
    local made=$1 later
    later=$(existing "${@:2}")
    if [ -n "$later" ]; then
        echo "error: $made is to be made anew, and what came of the former one is there. Remove$later too." >&2
        exit 2
    fi
}

make_index() { # of the passages $1, in the folder $2; what follows are the folders of later steps
    if [ -e "$2/manifest.json" ]; then
        echo "1/4 index: $2 is there, skipped."
        return
    fi
    require_nothing_later "${@:2}"
    echo "1/4 index: $1 to $2, encoded by $context_encoder."
    begins "${2##*/}"
    python -m rag_finetune index --passages "$1" --context_encoder "$context_encoder" --output_dir "$2"
}
make_index "$PASSAGES" "$output/index" "$output/assembled" "$output/model"
[ -z "$other_passages" ] || make_index "$other_passages" "$output/index_counterfactual"

start=${MODEL:-$output/assembled}
if [ -n "${MODEL:-}" ]; then
    echo "2/4 assemble: skipped, MODEL is $MODEL."
elif [ -e "$output/assembled/config.json" ]; then
    echo "2/4 assemble: $output/assembled is there, skipped."
else
    require_nothing_later "$output/assembled" "$output/model"
    echo "2/4 assemble: $question_encoder and $generator as $model_type to $output/assembled."
    begins assembled
    python -m rag_finetune assemble --question_encoder "$question_encoder" --generator "$generator" \
        --model_type "$model_type" --index "$output/index" --questions "$TRAIN_FILE" --output_dir "$output/assembled"
fi

if [ -e "$output/model/train_results.json" ]; then
    echo "3/4 train: $output/model is there, skipped."
else
    echo "3/4 train: on $TRAIN_FILE, $processes process(es), to $output/model."
    if compgen -G "$output/model/checkpoint-*/trainer_state.json" >/dev/null; then
        echo "    An earlier training was interrupted: going on from its last checkpoint."
        train_flags+=(--resume_from_checkpoint latest)
    elif [ -d "$output/model" ]; then
        echo "    An earlier training was interrupted before its first whole checkpoint: starting anew."
        rm -rf "$output/model"
    fi
    begins model
    launch=(python)
    if [ "$processes" -gt 1 ]; then
        # --multi_gpu also without a GPU: `accelerate launch --cpu` silently starts one process only, and
        # without --use_cpu each of several would train for itself. Port 0: any that is free.
        launch=(accelerate launch --multi_gpu --num_machines 1 --num_processes "$processes"
            --mixed_precision no --dynamo_backend no --main_process_port 0)
        if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
            train_flags+=(--use_cpu)
        fi
    fi
    "${launch[@]}" -m rag_finetune train --model_name_or_path "$start" \
        --index "$output/index" --train_file "$TRAIN_FILE" --output_dir "$output/model" "${train_flags[@]}" "$@"
fi

if [ -z "${TEST_FILE:-}${VALIDATION_FILE:-}" ]; then
    echo "Neither TEST_FILE nor VALIDATION_FILE is given: the table is of the questions trained on."
fi
kept="what is there is kept"
for made in "$output/index/manifest.json" "$output/index_counterfactual/manifest.json" \
    "$output/model/train_results.json"; do
    # What was measured is of something that is no longer there.
    if [ -e "$output/evaluation/inputs.json" ] && [ "$made" -nt "$output/evaluation/inputs.json" ]; then
        compare_flags+=(--overwrite)
        kept="made anew, for $made is newer"
        break
    fi
done
begins evaluation
echo "4/4 compare: $output/model with its start and with baselines, to $output/evaluation; $kept."
echo "    (each row answers all questions of ${test_files[*]##*/}, whatever --max_eval_samples train was given)"
python -m rag_finetune compare --model_name_or_path "$output/model" --starting_model "$start" \
    --index "$output/index" --train_file "$TRAIN_FILE" --eval_files "${test_files[@]}" \
    "${compare_flags[@]}"
index="the index"
[ -z "$other_passages" ] || index="the index; beside it index_counterfactual"
model="the model, its card (README.md) and tokenizers"
if [ -e "$output/model/index/manifest.json" ]; then
    model="the model, its card (README.md), tokenizers and index: one folder that can be moved"
fi
tell() { printf '%-37s %s\n' "$@"; }
echo
tell "$output/index" "$index"
tell "$output/model" "$model"
if [ -e "$output/model/training.png" ]; then
    tell "$output/model/training.png" "loss, exact match and recall over training"
fi
tell "$output/evaluation" "every answer with its passages, every figure"
echo
if [ "$PATH" != "$path_before" ]; then
    echo "First, in this shell: . $VIRTUAL_ENV/bin/activate"
fi
echo "Ask it: rag-finetune predict --model_name_or_path $output/model --questions FILE, or - for stdin"
