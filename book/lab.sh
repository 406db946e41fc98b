#!/usr/bin/env bash
# Start JupyterLab on the notebooks, for this computer only and behind a token. Called by `make lab`, with its ARGS.
set -euo pipefail
options=(
    --LabApp.news_url=None
    --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate
    --LabApp.extension_manager=readonly
    --ServerApp.answer_yes=True    # Ctrl-C ends it without a question
)

if [ "$(id -u)" = 0 ]; then
    echo "Note: started as root, so JupyterLab runs with --allow-root; an ordinary user is safer."
    options+=(--allow-root)
fi
if [ "$(uname)" = Linux ] && [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
    echo "No screen here: open the address printed below in a browser (from another computer: forward the port with ssh -L)."
    options+=(--no-browser)
fi
# No question about "Jupyter news" at the first start.
mkdir -p .venv/etc/jupyter/labconfig
echo '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}' > .venv/etc/jupyter/labconfig/page_config.json
echo "Ctrl-C ends JupyterLab."
exec .venv/bin/python -m jupyterlab "${options[@]}" "$@" notebooks/
