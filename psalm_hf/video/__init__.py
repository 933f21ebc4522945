"""Objects through a video: sessions, their memory, and frames from folders and files."""

from .frames import VideoFrame, check_video, count_frames, frame_rate, read_frames, write_video
from .memory import FirstLastConfident, LastFrame, Released
from .session import PsalmVideoSession, VideoResult

__all__ = [
    "FirstLastConfident",
    "LastFrame",
    "PsalmVideoSession",
    "Released",
    "VideoFrame",
    "VideoResult",
    "check_video",
    "count_frames",
    "frame_rate",
    "read_frames",
    "write_video",
]
