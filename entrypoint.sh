#!/bin/sh
# Puts the sidecar around an image's own command:
#
#     ENTRYPOINT ["/entrypoint.sh"]
#     CMD ["node", "server.js"]
#
# The sidecar lives in an environment of its own, /opt/sidecar, so that neither its Python nor its packages
# are the app's. SPACE_SIDECAR_BIN names it where it lies elsewhere (a name of ours that starts with SIDECAR_
# would be taken for a setting).

say() { printf 'sidecar ERROR %s\n' "$*" >&2; }

if [ $# -eq 0 ]; then
    say 'entrypoint.sh got no command to run. Usage: entrypoint.sh COMMAND [ARG...]'
    say 'In a Dockerfile the command is what CMD says: CMD ["python", "app.py"]'
    exit 2
fi

if [ -n "${SPACE_SIDECAR_BIN-}" ]; then
    sidecar=$SPACE_SIDECAR_BIN
    where="SPACE_SIDECAR_BIN says $sidecar, and that is not an executable file"
elif [ -x /opt/sidecar/bin/sidecar ]; then
    sidecar=/opt/sidecar/bin/sidecar
else
    sidecar=$(command -v sidecar) || sidecar=
    where='neither /opt/sidecar/bin/sidecar nor a sidecar on PATH is there'
fi

if [ ! -f "$sidecar" ] || [ ! -x "$sidecar" ]; then
    say "the sidecar is not in this image: $where. The command was not started."
    say 'Put these two lines into the Dockerfile, before USER:'
    say '    COPY space-sidecar /tmp/space-sidecar'
    say '    RUN python3 -m venv /opt/sidecar && /opt/sidecar/bin/pip install /tmp/space-sidecar'
    exit 127
fi

# An environment that was copied from another image without its Python would fail as 'not found', naming the
# one file that is there.
bin=${sidecar%/*}
if [ -e "$bin/../pyvenv.cfg" ] && [ ! -x "$bin/python" ]; then
    say "$sidecar is there, but the Python that its environment was made with is not. The command was not started."
    say 'Make the environment in this image: RUN python3 -m venv /opt/sidecar && …, or install the same Python here.'
    exit 127
fi

exec "$sidecar" run -- "$@"
