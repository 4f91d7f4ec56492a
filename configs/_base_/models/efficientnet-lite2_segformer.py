# EfficientNet-lite2 (ImageNet, timm's names) under a SegFormer head: a teacher for small data.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(360, 480),
    ),
    backbone=dict(
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite2',
        features_only=True,
        pretrained=False,
        checkpoint_path='weights/tf_efficientnet_lite2_features.pth',
        out_indices=(1, 2, 3, 4),
    ),
    decode_head=dict(
        type='SegformerHead',
        in_channels=[24, 48, 120, 352],
        in_index=[0, 1, 2, 3],
        channels=128,
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
