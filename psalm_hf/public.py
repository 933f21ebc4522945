"""The public names of the package, and their registration with the Auto classes and the pipelines of transformers.

What loads or saves a checkpoint takes the classes from here: only registered ones save their code and find each other.
"""

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor

from .checkpoints import tiny_checkpoint
from .model.configuration_psalm import OriginalPsalmConfig, PsalmConfig
from .model.image_processing_psalm import PsalmImageProcessor, load_image
from .model.modeling_psalm import AUTO_CLASSES, PsalmForSegmentation, PsalmImageFeatures, PsalmModel, PsalmSegmentationOutput
from .model.processing_psalm import PsalmProcessor
from .model.starting_point import build_starting_point
from .pipeline import PromptableSegmentationPipeline  # importing it registers pipeline("promptable-segmentation")
from .predictor import PsalmPredictor
from .result import PsalmResult
from .video import PsalmVideoSession

AutoConfig.register(PsalmConfig.model_type, PsalmConfig)
AutoConfig.register(OriginalPsalmConfig.model_type, OriginalPsalmConfig)
for name in AUTO_CLASSES:
    getattr(transformers, name).register(PsalmConfig, PsalmForSegmentation)
AutoProcessor.register(PsalmConfig, PsalmProcessor)
# One class for both backends: pixels are Pillow's, bit for bit, wherever torchvision is installed too.
AutoImageProcessor.register(PsalmConfig, image_processor_classes={"torchvision": PsalmImageProcessor, "pil": PsalmImageProcessor})

# A saved or pushed folder carries its own code, so that it also loads where psalm_hf is not installed (trust_remote_code=True).
PsalmConfig.register_for_auto_class()
PsalmForSegmentation.register_for_auto_class("AutoModel")
PsalmProcessor.register_for_auto_class()
PsalmImageProcessor.register_for_auto_class()

__all__ = [
    "PromptableSegmentationPipeline",
    "PsalmConfig",
    "PsalmForSegmentation",
    "PsalmImageFeatures",
    "PsalmImageProcessor",
    "PsalmModel",
    "PsalmPredictor",
    "PsalmProcessor",
    "PsalmResult",
    "PsalmSegmentationOutput",
    "PsalmVideoSession",
    "build_starting_point",
    "load_image",
    "tiny_checkpoint",
]
