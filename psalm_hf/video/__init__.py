"""Objects through a video: sessions, their memory, and frames from folders and files."""

from .frames import VideoFrame, count_frames, read_frames
from .memory import FirstLastConfident, LastFrame, Released
from .session import PsalmVideoSession, VideoResult

__all__ = [
    "FirstLastConfident",
    "LastFrame",
    "PsalmVideoSession",
    "Released",
    "VideoFrame",
    "VideoResult",
    "count_frames",
    "read_frames",
]
