#!/usr/bin/env bash
# Sets up .venv: every step looks first whether its work is done, so a second run is quick and an
# interrupted one goes on where it stopped. Usage: tools/setup_env.sh [VENV]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
py=$venv/bin/python
stamp=$venv/.ready-$(cat requirements.txt requirements-teachers.txt setup.py tools/setup_env.sh | sha256sum | cut -c1-16)
[ -f "$stamp" ] && exit 0

say() { printf '\n== %s\n' "$*"; }
pip_install() { "$py" -m pip install --quiet --disable-pip-version-check "$@"; }
pinned() { grep -E "^$1==" requirements.txt; }
has() { "$py" -c "$1" >/dev/null 2>&1; }

apt_install() {
  command -v apt-get >/dev/null || { echo "missing: $*; install it with your package manager"; exit 1; }
  local sudo=''
  [ "$(id -u)" = 0 ] || sudo='sudo'
  say "system packages: $*"
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends "$@"
}

say "setting up $venv (5 to 15 minutes the first time; most of it compiles mmcv's operators)"
command -v g++ >/dev/null || apt_install build-essential
python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
python3 -c 'import sysconfig, os; assert os.path.exists(sysconfig.get_path("include") + "/Python.h")' \
  2>/dev/null || apt_install python3-dev

if ! [ -x "$py" ] || ! has 'import pip'; then
  say 'virtual environment'
  python3 -m venv --clear "$venv"
fi

if ! has "import torch; assert torch.__version__.split('+')[0] == '$(pinned torch | cut -d= -f3)'"; then
  say "$(pinned torch) and build tools"
  pip_install "$(pinned torch)" "$(pinned numpy)" ninja psutil packaging wheel 'setuptools<81'
fi

if ! has "import mmcv.ops; assert mmcv.__version__ == '$(pinned onedl-mmcv | cut -d= -f3)'"; then
  say "$(pinned onedl-mmcv): compiling the operators, about 5 minutes on two cores ($(date +%H:%M))"
  pip_install ninja psutil packaging wheel 'setuptools<81' "$(pinned numpy)" "$(pinned opencv-python)"
  CFLAGS='-g0 -O2' MAX_JOBS=${MAX_JOBS:-$(nproc)} pip_install --no-build-isolation "$(pinned onedl-mmcv)"
fi

say 'the other packages'
pip_install -r requirements.txt
has 'import torchvision' || has 'import importlib.metadata as m; m.version("torchvision")' \
  || pip_install --no-deps "$(pinned '# torchvision' | cut -c3-)"
pip_install --no-build-isolation --no-deps -e .

# a torchvision of another build than torch's becomes importable, for the plain toolboxes too
site=$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp mmkd/torchvision_cure.py "$site/mmkd_torchvision_cure.py"
echo 'import mmkd_torchvision_cure; mmkd_torchvision_cure.install()' >"$site/mmkd_torchvision_cure.pth"

# for the tests of such teachers, who put it on their path; all else that they need is in the environment
teachers=$venv/teachers
if ! cmp -s requirements-teachers.txt "$teachers/installed.txt"; then
  say 'timm and transformers'
  rm -rf "$teachers"
  pip_install --no-deps --target "$teachers" -r requirements-teachers.txt
  cp requirements-teachers.txt "$teachers/installed.txt"
fi

has 'import cv2' || apt_install libgl1 libglib2.0-0

# it writes a cache when it is first imported, which ranks or workers that start together would read half
"$py" -c 'import yapf.yapflib.yapf_api'

say 'checking the result'
"$py" tools/doctor.py
touch "$stamp"
