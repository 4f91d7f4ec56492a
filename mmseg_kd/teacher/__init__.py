"""The teacher: frozen, fed in its own way, run no further than needed."""

from mmseg_kd.config.teacher_options import TeacherOptions
from mmseg_kd.teacher.normalisation import Normalisation
from mmseg_kd.teacher.teacher import Teacher

__all__ = ['Normalisation', 'Teacher', 'TeacherOptions']
