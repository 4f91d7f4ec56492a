from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
REQUIREMENTS = [
    line
    for line in (ROOT / 'requirements.txt').read_text(encoding='utf-8').splitlines()
    if line and not line.startswith('#')
]
# What ONNX files are made, checked and quantised with.
EXPORT = ['onnx>=1.17', 'onnxscript>=0.2', 'onnxruntime>=1.20']
# Networks from elsewhere: of Hugging Face, and of segmentation_models_pytorch.
HF = ['transformers>=4.49']
SMP = ['segmentation-models-pytorch>=0.4']
# What chooses the trials of a sweep.
SWEEP = ['optuna>=4']
# What the documentation is built with. The theme is made for mkdocs 1.
DOCS = ['mkdocs>=1.6,<2', 'mkdocs-material>=9.5.40,<10']
# What `mmseg_kd::` names: beside the package in a checkout, in it in a wheel.
SHIPPED = ('configs', 'distillation_configs')


class BuildWithConfigs(build_py):
    """Copies the shipped configs to where mmseg has its own, `.mim` in the package."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for folder in SHIPPED:
                copytree(
                    ROOT / folder,
                    Path(self.build_lib, 'mmseg_kd', '.mim', folder),
                    ignore=ignore_patterns('__pycache__'),
                    dirs_exist_ok=True,
                )


setup(
    name='mmseg-kd',
    version='0.1.0',
    description='Distil large semantic segmentation networks into small ones',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=find_packages(include=['mmseg_kd', 'mmseg_kd.*']),
    entry_points={'console_scripts': ['mmseg-kd=mmseg_kd.cli.main:main']},
    package_data={'mmseg_kd.report': ['assets/*']},
    cmdclass={'build_py': BuildWithConfigs},
    python_requires='>=3.10',
    install_requires=REQUIREMENTS,
    extras_require={
        'export': EXPORT,
        'sweep': SWEEP,
        'docs': DOCS,
        'hf': HF,
        'smp': SMP,
        'dev': [
            *EXPORT,
            *SWEEP,
            *DOCS,
            *HF,
            *SMP,
            'pytest>=8',
            'pytest-timeout',
            'pytest-xdist',
            'nbclient>=0.8',
            'nbformat>=5.7',
            'ipykernel>=6',
            'hypothesis',
            'playwright>=1.40',
            'ruff>=0.6',
            'mypy>=1.11',
            'pre-commit',
        ],
    },
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
