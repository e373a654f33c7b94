#!/usr/bin/env bash
# Runs a command that sees Mesa's software Vulkan (lavapipe) as its GPU, for the plug-in for WebGPU.
# ONNX Runtime finds GPUs in /sys/class/drm: in a mount namespace, the command sees one there. Needs root or user namespaces.
set -euo pipefail

if [ "${1:-}" != --inside ]; then
  drivers=(/usr/share/vulkan/icd.d/lvp_icd*.json)
  if [ ! -e "${drivers[0]}" ]; then
    echo "there is no software Vulkan: install mesa-vulkan-drivers and libvulkan1 (Mesa 23 or newer; Debian 12 has it in backports)" >&2
    exit 1
  fi
  export VK_DRIVER_FILES=${drivers[0]} XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
  if [ "$(id -u)" = 0 ]; then
    exec unshare --mount bash "$0" --inside "$@"
  fi
  exec unshare --mount --map-root-user bash "$0" --inside "$@"
fi

shift
if [ -d /sys/class/drm ]; then
  mount -t tmpfs none /sys/class/drm
else
  mount -t tmpfs none /sys/class
  mkdir /sys/class/drm
fi
# A graphics card of a virtual machine: ONNX Runtime reads the numbers of the vendor and of the device.
mkdir -p /sys/class/drm/card0/device
echo 0x1af4 > /sys/class/drm/card0/device/vendor
echo 0x1050 > /sys/class/drm/card0/device/device
exec "$@"
