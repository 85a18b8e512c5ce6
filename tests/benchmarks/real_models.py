"""Training steps of real models, 0.05 to 1 s eagerly, where the arithmetic is the limit. Random data.

The models of `programs.py` at their own sizes or, where those take longer than a second, with fewer layers and smaller
batches.
"""

from __future__ import annotations

import detectors
import programs

BERT = dict(
    vocab_size=8000, hidden_size=384, num_hidden_layers=4, num_attention_heads=6, intermediate_size=1536,
    max_position_embeddings=128,
)  # fmt: skip
GPT2 = dict(vocab_size=8000, n_positions=128, n_embd=384, n_layer=4, n_head=6)

PROGRAMS = {
    "BERT classification, 4 × 384, 8 × 64 tokens": lambda: programs.bert_classification(BERT, 8, 64),
    "BERT question answering, 4 × 384, 4 × 128 tokens": lambda: programs.bert_question_answering(BERT, 4, 128),
    "GPT-2, 4 × 384, 4 × 128 tokens": lambda: programs.gpt2(GPT2, 4, 128),
    "music transformer, 4 × 256, 4 × 256 notes": lambda: programs.music_transformer(
        4, 256, events=388, width=256, layers=4, heads=4
    ),
    "ResNet-50, 4 images of 32×32": lambda: programs.image_classifier(programs.ResNet(64, (3, 4, 6, 3)), 32, 4),
    "YOLO-like, width 32, 4 images of 256×256": lambda: detectors.yolo(32, 256, 4),
    "Faster R-CNN-like, width 64, 384×384, 64 regions": lambda: detectors.faster_rcnn(64, 384, 256, 64),
    "DCGAN, width 64, 16 images of 32×32": lambda: programs.dcgan(64, 100, 16),
}

if __name__ == "__main__":
    raise SystemExit(programs.main(__doc__, PROGRAMS, seconds=10))
