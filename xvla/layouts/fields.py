"""Which fields a foreign config.json may hold; any other one belongs to another architecture."""

from typing import Any


def names(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


# Written by every transformers configuration; none changes what X-VLA computes.
TRANSFORMERS = names(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path
    add_cross_attention architectures attn_implementation auto_map bad_words_ids
    begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label is_decoder
    is_encoder_decoder label2id length_penalty max_length min_length model_type
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_scores pad_token_id prefix problem_type pruned_heads
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id
    suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
    tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version
    typical_p use_bfloat16 use_cache
    """
)
POLICY = names(
    """
    action_mode depth dim_time florence_config hidden_size len_soft_prompts max_action_dim
    max_len_seq mlp_ratio num_domains num_heads use_hetero_proj use_proprio
    """
)
OFFICIAL = TRANSFORMERS | POLICY | {"num_actions", "real_action_dim", "soft_prompt_length"}
# LeRobot parses its file strictly: these are all the fields that it knows (version 0.4 to 0.6).
LEROBOT = POLICY | names(
    """
    chunk_size device domain_feature_key dtype empty_cameras freeze_language_encoder
    freeze_vision_encoder input_features license max_state_dim n_action_steps n_obs_steps
    normalization_mapping num_denoising_steps num_image_views optimizer_betas optimizer_eps
    optimizer_grad_clip_norm optimizer_lr optimizer_soft_prompt_lr_scale
    optimizer_soft_prompt_warmup_lr_scale optimizer_weight_decay output_features
    pad_language_to pretrained_path pretrained_revision private push_to_hub repo_id
    resize_imgs_with_padding scheduler_decay_lr scheduler_decay_steps scheduler_warmup_steps tags
    tokenizer_max_length tokenizer_name tokenizer_padding_side train_policy_transformer
    train_soft_prompts type use_amp use_peft
    """
)
# Microsoft's names and transformers' native ones.
FLORENCE = TRANSFORMERS | names(
    "ignore_index image_token_id projection_dim text_config vision_config vocab_size"
)
VISION = TRANSFORMERS | names(
    """
    activation_function depths dim_embed drop_path_rate embed_dim enable_checkpoint
    image_feature_source image_pos_embed in_channels initializer_range layer_norm_eps
    max_position_embeddings max_temporal_embeddings mlp_ratio num_groups num_heads patch_padding
    patch_prenorm patch_size patch_stride projection_dim qkv_bias visual_temporal_embedding
    window_size
    """
)
TEXT = TRANSFORMERS | names(
    """
    _num_labels activation_dropout activation_function add_bias_logits add_final_layer_norm
    attention_dropout classif_dropout classifier_dropout d_model
    decoder_attention_heads decoder_ffn_dim decoder_layerdrop decoder_layers dropout
    encoder_attention_heads encoder_ffn_dim encoder_layerdrop encoder_layers init_std
    max_position_embeddings normalize_before normalize_embedding num_hidden_layers num_labels
    scale_embedding static_position_embeddings vocab_size
    """
)


def check_fields(raw: dict[str, Any], allowed: frozenset[str], where: str) -> None:
    """Raise ValueError naming a field, its value and the fields allowed in `where`.

    An unknown field that is empty, zero or false switches nothing on and passes: released files
    carry some from other versions (`idx_for_delta: []`).
    """
    for name, value in raw.items():
        if name not in allowed and value:
            raise ValueError(
                f"{where} has {name}={value!r}, which X-VLA does not have; allowed: "
                f"{sorted(allowed - TRANSFORMERS)}; check that this is an X-VLA checkpoint"
            )


def check_value(raw: dict[str, Any], name: str, allowed: tuple[Any, ...], where: str) -> None:
    """Raise ValueError if a field is given with another value than X-VLA's."""
    value = raw.get(name)
    # Florence-2's own file has an empty model_type for the vision tower.
    if value not in (None, "") and value not in allowed:
        raise ValueError(f"{where}.{name}={value!r} is not X-VLA's; allowed: {list(allowed)}")
