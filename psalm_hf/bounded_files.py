"""Files that may be anything, opened within limits, for everything that is not the model. (A checkpoint's folder has the code with it.)"""

from .model.bounded_files import check_pickle as check_pickle
from .model.bounded_files import open_image_file as open_image_file
from .model.bounded_files import refuse_pipe as refuse_pipe
