# The same with a student that is really small: a slim SegFormer of 0.46 M parameters, from scratch.
_base_ = './new-film-120x160.py'
model = dict(student=dict(config='mmseg_kd::configs/camvid/mit-slim_segformer_camvid-240x320.py'))
comparison = dict(iterations=4800)
