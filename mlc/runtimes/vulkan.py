"""What a Vulkan driver calls its devices: a provider on a software device does not say it itself."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from ctypes import byref, c_uint32, c_void_p
from functools import cache

from mlc.runtimes.quiet import quiet

LIBRARY = {"win32": "vulkan-1.dll", "darwin": "libvulkan.dylib"}.get(sys.platform, "libvulkan.so.1")

ON_THE_CPU = 4
"""VK_PHYSICAL_DEVICE_TYPE_CPU."""

TYPE, NAME = slice(16, 20), slice(20, 276)
"""Where VkPhysicalDeviceProperties, of less than 1 kB, has its deviceType and deviceName."""


class _InstanceInfo(ctypes.Structure):
    """VkInstanceCreateInfo, without application, layers and extensions."""

    _fields_ = (
        ("kind", c_uint32), ("next", c_void_p), ("flags", c_uint32), ("application", c_void_p),
        ("layer_count", c_uint32), ("layers", c_void_p), ("extension_count", c_uint32), ("extensions", c_void_p),
    )  # fmt: skip


@cache
def software_adapter() -> str:
    """Return the name of the Vulkan device that computes on the CPU, or empty text where there is none."""
    with contextlib.suppress(OSError):  # no Vulkan here
        return next((name for kind, name in _devices(ctypes.CDLL(LIBRARY)) if kind == ON_THE_CPU), "")
    return ""


def _devices(vulkan: ctypes.CDLL) -> list[tuple[int, str]]:
    """Return type and name of every Vulkan device."""
    instance = c_void_p()
    with quiet():
        if vulkan.vkCreateInstance(byref(_InstanceInfo(kind=1)), None, byref(instance)):
            return []
        count = c_uint32()
        vulkan.vkEnumeratePhysicalDevices(instance, byref(count), None)
        devices = (c_void_p * count.value)()
        vulkan.vkEnumeratePhysicalDevices(instance, byref(count), devices)
        found = []
        for device in devices:
            properties = ctypes.create_string_buffer(1024)
            vulkan.vkGetPhysicalDeviceProperties(c_void_p(device), properties)
            name = properties.raw[NAME].partition(b"\0")[0].decode("utf-8", "replace")
            found.append((int.from_bytes(properties.raw[TYPE], "little"), name))
        vulkan.vkDestroyInstance(instance, None)
    return found
