# A slim transformer from scratch in MobileNetV2's place: it needs far longer.
_base_ = './camvid-360x480_efficientnet-lite2_mobilenetv2.py'
model = dict(student=dict(config='mmseg_kd::configs/camvid/mit-slim_segformer_camvid-360x480.py'))
