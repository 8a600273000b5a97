#!/usr/bin/env bash
# Like run_rag_sequence.sh, which explains the variables, with RAG-Token in place of RAG-Sequence.
set -euo pipefail
exec "$(dirname "$0")/run_rag_sequence.sh" --rag_token "$@"
