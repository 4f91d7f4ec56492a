# Sourced by the other scripts: a Python environment with this package in it.
# The active virtual or conda environment is used; where none is, .venv is made and used.
if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ]; then
    if [ ! -x .venv/bin/python ]; then
        echo "Making the virtual environment .venv"
        python3 -m venv .venv
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
fi
# Install where this checkout is not yet what the environment has, and when requirements change.
_stamp="$(python -c 'import sys; print(sys.prefix)')/.mmseg_kd_install"
_wanted="$(pwd) ${MMSEG_KD_EXTRAS:-} $(cat setup.py requirements.txt | cksum)"
if [ "$(cat "$_stamp" 2>/dev/null || true)" != "$_wanted" ]; then
    echo "Installing mmseg_kd and its requirements (the download of torch is the long part)"
    python -m pip install --quiet --disable-pip-version-check \
        -e ".${MMSEG_KD_EXTRAS:+[$MMSEG_KD_EXTRAS]}"
    echo "$_wanted" > "$_stamp"
fi
