"""The objectives of vision-language pretraining, as functions of tensors: ALBEF (Li et al., NeurIPS 2021)."""
