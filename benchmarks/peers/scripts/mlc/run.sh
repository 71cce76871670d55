# The command of README.md, with the sample's files in the working directory.
mlc quantize model.py:model@weights.safetensors --to int8 --input "image=float32[batch=1..64,1,28,28]" --calibrate calibration.npz --data evaluation.npz --metric top1 --max-drop 0.01 -o int8
