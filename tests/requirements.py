"""Which tests prove which requirement, and which requirements are not met yet.

The ids are those of the product's requirements. `tests/test_requirements.py` keeps this true.
"""

SHARE = (
    *(f"R-{number:03}" for number in range(1, 9)),
    "R-009",
    *(f"R-{number:03}" for number in range(10, 24)),
    *(f"R-{number:03}" for number in range(30, 50)),
    *(f"R-{number:03}" for number in range(50, 55)),
    "R-074",
    *(f"R-{number:03}" for number in (*range(60, 74), 75, 76, 77)),
    *(f"R-{number:03}" for number in range(90, 97)),
    *(f"R-{number:03}" for number in range(100, 104)),
    *(f"R-{number:03}" for number in range(110, 141)),
    *(f"R-{number:03}" for number in range(150, 173)),
    "R-220",
    "R-221",
    *(f"R-{number:03}" for number in range(230, 238)),
    *(f"R-{number:03}" for number in range(240, 251)),
    *(f"R-{number:03}" for number in range(260, 271)),
    *(f"R-{number:03}" for number in range(280, 291)),
    *(f"R-{number:03}" for number in range(300, 307)),
    *(f"R-{number:03}" for number in range(310, 323)),
    *(f"R-{number:03}" for number in range(330, 335)),
    *(f"E-{number:02}" for number in (1, 2, 3, 4, 5, 6, 8, 9, 11, 13, 14, 15, 16, 21, 22)),
)
"""What the first slice of the product promises."""

PROVEN: dict[str, tuple[str, ...]] = {
    "R-001": (
        "tests/gateway/test_snapshot.py::test_a_server_registered_on_another_replica_gets_a_route",
        "tests/local/test_instance.py::test_kill_9_of_the_registry_takes_the_children_along_and_loses_nothing",
        "tests/test_serving.py::test_local_mode_serves_and_keeps_everything_over_a_kill",
    ),
    "R-002": (
        "tests/database/test_schema.py::test_one_collection_takes_tools_of_both_kinds",
        "tests/servers/test_described_elsewhere.py::test_of_the_storage_examples_what_can_be_served_is_counted_everywhere",
    ),
    "R-003": (
        "tests/servers/test_unreachable_upstreams.py::test_every_reading_route_answers_without_one_connection_to_anywhere_else",
        "tests/gateway/test_eras.py::test_a_dead_upstream_does_not_empty_the_list",
        "tests/servers/test_api_servers.py::test_a_bare_document_of_the_other_application_is_shown_with_defaults",
        "tests/servers/test_api_servers.py::test_tools_are_answered_in_their_own_form_from_the_database",
    ),
    "R-004": (
        "tests/repository/test_makefile.py::test_check_runs_format_lint_types_imports_and_tests_in_this_order",
    ),
    "R-005": (
        "tests/gateway/test_eras.py::test_tools_are_listed_from_memory_in_the_era_of_the_handshake",
        "tests/repository/test_makefile.py::test_check_runs_format_lint_types_imports_and_tests_in_this_order",
    ),
    "R-017": (
        "tests/gateway/test_endpoint.py::test_a_tool_that_is_not_registered_is_refused_without_asking_the_upstream",
        "tests/servers/test_service.py::test_registering_stores_the_server_its_tools_and_the_authors_acl_entry",
    ),
    "R-018": (
        "tests/gateway/test_forward.py::test_calls_one_after_another_share_a_connection",
        "tests/gateway/test_sdk_clients.py::test_many_calls_at_once_get_their_own_answers",
    ),
    "R-019": (
        "tests/clients/test_matrix.py::test_a_client_does_everything_that_the_server_offers",
        "tests/gateway/test_sdk_clients.py::test_tools_are_listed_and_called",
        "tests/gateway/test_whole_way.py::test_a_registered_server_is_listed_and_called_in_each_era",
    ),
    "R-020": (
        "tests/repository/test_data_model.py::test_the_table_names_exactly_the_modules_that_touch_a_collection",
        "tests/servers/test_seeding.py::test_a_second_run_imports_nothing_and_overwrites_nothing",
    ),
    "R-021": (
        "tests/models/test_generated.py::test_a_missing_author_is_refused_and_not_made_up",
        "tests/servers/test_service.py::test_registering_stores_the_server_its_tools_and_the_authors_acl_entry",
    ),
    "R-022": (
        "tests/database/test_client.py::test_a_cancelled_transaction_writes_nothing",
        "tests/database/test_client.py::test_a_transaction_that_fails_writes_nothing",
        "tests/database/test_client.py::test_a_transaction_writes_everything_and_returns_the_result",
        "tests/servers/test_api_outage.py::test_a_database_killed_while_a_server_is_read_leaves_nothing_half_stored",
        "tests/servers/test_service.py::test_a_registration_that_fails_half_way_leaves_nothing",
    ),
    "R-023": (
        "tests/database/test_client.py::test_a_conflict_inside_a_repository_is_run_again_too",
        "tests/database/test_client.py::test_a_transaction_in_conflict_is_run_again",
        "tests/servers/test_service.py::test_of_many_updates_from_one_reading_exactly_one_wins",
    ),
    "R-033": (
        "tests/database/test_client.py::test_the_database_is_named_by_the_address",
        "tests/models/test_generated.py::test_the_documents_live_in_the_collections_of_the_other_application",
    ),
    "R-034": (
        "tests/models/test_documents.py::test_a_stored_server_is_the_same_after_load_and_save",
        "tests/servers/test_service.py::test_an_update_changes_the_given_fields_and_no_others",
        "tests/servers/test_service.py::test_registering_stores_the_server_its_tools_and_the_authors_acl_entry",
    ),
    "R-035": (
        "tests/servers/test_api_servers.py::test_answers_are_flat",
        "tests/servers/test_service.py::test_registering_stores_the_server_its_tools_and_the_authors_acl_entry",
    ),
    "R-036": (
        "tests/servers/test_api_servers.py::test_a_registration_answers_the_whole_server_with_its_tools",
        "tests/servers/test_service.py::test_registering_stores_the_server_its_tools_and_the_authors_acl_entry",
    ),
    "R-037": (
        "tests/servers/test_api_input.py::test_a_field_that_cannot_be_taken_is_named",
        "tests/servers/test_service.py::test_a_key_that_users_bring_is_kept_where_the_other_application_looks_for_it",
        "tests/servers/test_service.py::test_credentials_are_stored_encrypted_and_used_for_the_connection",
    ),
    "R-038": (
        "tests/servers/test_service.py::test_an_oauth_server_is_stored_without_being_called",
        "tests/servers/test_service.py::test_credentials_are_stored_encrypted_and_used_for_the_connection",
    ),
    "R-039": (
        "tests/servers/test_service.py::test_an_oauth_server_is_stored_without_being_called",
        "tests/sync/test_discovery.py::test_oauth_metadata_is_found_and_cut_to_what_is_known",
    ),
    "R-040": (
        "tests/models/test_generated.py::test_unknown_values_of_closed_fields_are_kept",
        "tests/servers/test_api_input.py::test_a_field_that_cannot_be_taken_is_named",
        "tests/servers/test_api_servers.py::test_lists_are_narrowed_by_scope_and_status",
    ),
    "R-041": (
        "tests/servers/test_api_input.py::test_a_field_that_cannot_be_taken_is_named",
        "tests/test_cli.py::test_a_malformed_server_is_one_line",
    ),
    "R-042": (
        "tests/servers/test_api_input.py::test_a_missing_field_is_named",
        "tests/servers/test_api_input.py::test_an_unsafe_url_is_refused_and_not_stored",
    ),
    "R-043": (
        "tests/models/test_generated.py::test_references_are_object_ids",
        "tests/servers/test_api_servers.py::test_a_registration_answers_the_whole_server_with_its_tools",
        "tests/servers/test_service.py::test_registering_stores_the_server_its_tools_and_the_authors_acl_entry",
    ),
    "R-044": (
        "tests/database/test_schema.py::test_preparing_again_changes_nothing",
        "tests/models/test_generated.py::test_the_indexes_of_servers_are_the_published_ones",
        "tests/servers/test_queries.py::test_a_list_takes_the_same_few_commands_however_long_it_is",
        "tests/access/test_agreement.py::test_a_list_shows_what_the_decision_allows_and_a_query_finds",
    ),
    "R-045": (
        "tests/servers/test_service.py::test_of_fifty_registrations_of_one_name_exactly_one_wins",
    ),
    "R-046": (
        "tests/servers/test_service.py::test_a_taken_path_is_refused_when_asked_for_and_avoided_when_not",
    ),
    "R-047": (
        "tests/gateway/test_snapshot.py::test_tools_that_only_the_other_application_described_are_served",
        "tests/servers/test_service.py::test_registering_stores_the_server_its_tools_and_the_authors_acl_entry",
    ),
    "R-048": (
        "tests/servers/test_api_servers.py::test_a_registration_answers_the_whole_server_with_its_tools",
        "tests/servers/test_api_servers.py::test_an_outdated_update_tells_both_times",
        "tests/servers/test_service.py::test_a_refresh_of_an_unchanged_server_is_no_modification",
    ),
    "R-049": (
        "tests/servers/test_api_servers.py::test_a_bare_document_of_the_other_application_is_shown_with_defaults",
        "tests/servers/test_api_servers.py::test_a_registration_answers_the_whole_server_with_its_tools",
    ),
    "R-090": ("tests/tokens/test_repository.py::test_a_token_comes_back_as_it_was_stored",),
    "R-091": ("tests/tokens/test_repository.py::test_tokens_of_other_kinds_are_never_touched",),
    "R-092": ("tests/database/test_schema.py::test_tokens_have_their_indexes",),
    "R-093": (
        "tests/tokens/test_repository.py::test_storing_again_replaces",
        "tests/tokens/test_repository.py::test_storing_at_the_same_time_leaves_one",
        "tests/tokens/test_repository.py::test_users_types_and_identifiers_are_kept_apart",
    ),
    "R-094": ("tests/tokens/test_repository.py::test_a_dump_of_the_collection_holds_no_token",),
    "R-095": (
        "tests/tokens/test_api_stored.py::test_a_link_has_two_ends_and_goes_with_either",
        "tests/tokens/test_api_stored.py::test_a_refresh_token_that_names_its_access_token_is_linked_as_well",
        "tests/tokens/test_api_stored.py::test_a_token_has_one_partner_at_a_time",
        "tests/tokens/test_api_stored.py::test_other_ids_than_of_live_tokens_of_the_right_kind_are_kept_and_link_nothing",
        "tests/tokens/test_api_stored.py::test_refreshing_replaces_both_tokens_in_one_step",
    ),
    "R-096": (
        "tests/tokens/test_api_stored.py::test_an_expired_token_is_gone_before_it_is_swept",
        "tests/models/test_generated.py::test_tokens_expire_by_an_index",
        "tests/tokens/test_repository.py::test_an_expired_token_does_not_exist",
    ),
    "R-110": (
        "tests/auth/test_bearer.py::test_a_bad_header_is_refused",
        "tests/servers/test_api_identity.py::test_every_route_needs_a_token",
    ),
    "R-111": (
        "tests/servers/test_api_input.py::test_a_malformed_id_is_refused_by_name",
        "tests/servers/test_api_servers.py::test_answers_are_flat",
    ),
    "R-112": ("tests/servers/test_api_servers.py::test_answers_are_flat",),
    "R-113": (
        "tests/servers/test_api_secrets.py::test_a_servers_secrets_show_nowhere",
        "tests/servers/test_api_servers.py::test_secrets_are_masked_in_every_answer",
    ),
    "R-114": (
        "tests/servers/test_api_servers.py::test_a_search_looks_at_names_titles_descriptions_and_tags",
        "tests/servers/test_service.py::test_a_search_is_literal_and_ignores_case",
    ),
    "R-115": (
        "tests/servers/test_api_servers.py::test_lists_are_narrowed_by_scope_and_status",
        "tests/servers/test_service.py::test_only_administrators_list_by_another_author",
    ),
    "R-116": ("tests/servers/test_api_input.py::test_a_query_parameter_out_of_range_is_named",),
    "R-117": (
        "tests/core/test_values.py::test_pages_are_counted_up",
        "tests/servers/test_api_servers.py::test_a_list_says_where_its_page_stands",
        "tests/servers/test_service.py::test_lists_and_totals_hold_only_what_the_caller_may_see",
    ),
    "R-118": (
        "tests/servers/test_api_servers.py::test_lists_leave_tool_functions_out_and_details_hold_them",
    ),
    "R-119": (
        "tests/servers/test_api_servers.py::test_pages_follow_the_last_change_and_neither_repeat_nor_skip",
    ),
    "R-120": (
        "tests/servers/test_api_servers.py::test_a_detail_of_a_server_that_never_answered_says_so",
    ),
    "R-121": ("tests/servers/test_api_servers.py::test_anothers_private_server_looks_like_none",),
    "R-122": (
        "tests/servers/test_api_servers.py::test_a_registration_answers_the_whole_server_with_its_tools",
    ),
    "R-123": (
        "tests/servers/test_service.py::test_registering_stores_the_server_its_tools_and_the_authors_acl_entry",
        "tests/sync/test_discovery.py::test_the_sdks_server_is_read_in_both_eras",
    ),
    "R-124": (
        "tests/servers/test_api_servers.py::test_a_strict_registration_of_a_dead_server_is_refused",
        "tests/servers/test_seeding.py::test_a_server_that_cannot_be_reached_is_imported_with_its_error",
        "tests/servers/test_service.py::test_a_server_that_cannot_be_reached_is_stored_with_its_error",
    ),
    "R-125": (
        "tests/servers/test_service.py::test_an_oauth_server_is_stored_without_being_called",
    ),
    "R-126": (
        "tests/servers/test_api_input.py::test_a_field_that_cannot_be_taken_is_named",
        "tests/servers/test_api_servers.py::test_a_registration_answers_the_whole_server_with_its_tools",
    ),
    "R-127": (
        "tests/tools/test_projection.py::test_the_key_is_the_function_name_and_the_native_name_is_kept",
    ),
    "R-128": (
        "tests/servers/test_api_servers.py::test_put_changes_given_fields_alone_just_as_patch_does",
        "tests/servers/test_service.py::test_an_update_changes_the_given_fields_and_no_others",
    ),
    "R-129": (
        "tests/servers/test_api_servers.py::test_a_whole_answer_may_be_sent_back",
        "tests/servers/test_service.py::test_a_mask_sent_back_leaves_the_stored_secret_alone",
    ),
    "R-130": (
        "tests/servers/test_api_servers.py::test_an_etag_guards_an_update",
        "tests/servers/test_api_servers.py::test_an_outdated_update_tells_both_times",
        "tests/servers/test_service.py::test_an_update_from_an_old_reading_is_refused_with_both_times",
    ),
    "R-131": (
        "tests/servers/test_service.py::test_a_server_that_is_reached_in_another_way_is_read_at_once",
    ),
    "R-132": (
        "tests/servers/test_api_servers.py::test_a_second_delete_finds_nothing",
        "tests/servers/test_api_servers.py::test_deleting_anothers_private_server_is_forbidden_in_these_words",
        "tests/servers/test_service.py::test_deleting_removes_everything_that_belongs_to_the_server_alone",
    ),
    "R-133": (
        "tests/access/policies/test_policies_api.py::test_policies_about_a_server_go_with_it_in_one_record",
        "tests/tokens/test_repository.py::test_a_servers_keys_go_with_it",
        "tests/tokens/test_repository.py::test_a_servers_tokens_go_with_it_and_no_others",
    ),
    "R-134": (
        "tests/gateway/test_snapshot.py::test_a_server_that_is_turned_off_or_deleted_elsewhere_loses_its_route",
        "tests/servers/test_api_servers.py::test_a_toggle_answers_the_new_state_however_often",
    ),
    "R-135": (
        "tests/servers/test_api_servers.py::test_tools_are_answered_in_their_own_form_from_the_database",
    ),
    "R-136": (
        "tests/servers/test_api_servers.py::test_a_failed_refresh_says_why_and_keeps_the_tools",
        "tests/servers/test_api_servers.py::test_a_refresh_answers_what_it_found",
        "tests/servers/test_service.py::test_a_failed_refresh_keeps_the_tools_and_says_what_went_wrong",
    ),
    "R-137": (
        "tests/servers/test_api_servers.py::test_statistics_are_for_administrators",
        "tests/servers/test_api_servers.py::test_statistics_are_no_server_and_name_every_kind",
        "tests/servers/test_service.py::test_statistics_add_up_and_name_every_kind",
        "tests/tokens/test_repository.py::test_tokens_are_counted_by_kind_and_state",
    ),
    "R-138": (
        "tests/core/test_values.py::test_a_validation_error_names_the_field",
        "tests/servers/test_api_identity.py::test_a_request_without_a_token_is_told_where_to_get_one",
        "tests/servers/test_api_input.py::test_a_field_that_cannot_be_taken_is_named",
        "tests/web/test_requests.py::test_what_nobody_expected_is_a_short_answer_and_a_logged_error",
    ),
    "R-139": (
        "tests/servers/test_api_servers.py::test_a_list_says_where_its_page_stands",
        "tests/servers/test_api_servers.py::test_both_spellings_of_a_field_are_understood",
        "tests/servers/test_api_servers.py::test_statistics_are_no_server_and_name_every_kind",
    ),
    "R-140": (
        "tests/servers/test_openapi.py::test_answers_are_as_the_document_says",
        "tests/servers/test_openapi.py::test_every_operation_is_tried",
    ),
    "R-240": (
        "tests/auth/test_bearer.py::test_a_jarvis_token_gets_the_stored_role",
        "tests/auth/test_bearer.py::test_a_token_of_ours_says_who_calls_and_what_they_may",
        "tests/auth/test_bearer.py::test_a_token_that_differs_in_its_last_character_is_not_remembered",
        "tests/auth/test_bearer.py::test_nothing_is_remembered_beyond_a_tokens_end",
        "tests/auth/test_jwt.py::test_a_well_signed_token_with_wrong_claims_is_refused",
        "tests/auth/test_jwt.py::test_an_issued_token_is_verified",
        "tests/auth/test_jwt.py::test_jarvis_tokens_name_a_user_and_no_rights",
        "tests/auth/test_jwt.py::test_no_text_is_a_token",
        "tests/auth/test_jwt.py::test_no_unsigned_structure_is_a_token",
        "tests/auth/test_jwt.py::test_other_algorithms_are_refused",
        "tests/auth/test_jwt.py::test_the_public_key_is_no_shared_secret",
        "tests/servers/test_api_identity.py::test_a_token_of_ours_with_wrong_claims_is_refused",
        "tests/test_cli.py::test_a_created_token_verifies",
    ),
    "R-241": (
        "tests/auth/test_jwt.py::test_a_role_is_read_without_regard_to_case",
        "tests/servers/test_api_identity.py::test_a_jarvis_user_has_the_role_that_users_says",
    ),
    "R-242": (
        "tests/access/test_policy.py::test_the_decision_follows_scope_author_and_grants",
        "tests/gateway/test_endpoint.py::test_authors_alone_reach_their_private_servers",
        "tests/gateway/test_whole_way.py::test_what_a_caller_may_not_see_is_answered_like_what_is_not_there",
        "tests/servers/test_api_identity.py::test_a_jarvis_user_sees_what_is_shared_with_their_groups",
    ),
    "R-243": (
        "tests/servers/test_api_servers.py::test_users_may_not_register_shared_servers",
        "tests/servers/test_service.py::test_only_administrators_register_shared_servers",
    ),
    "R-244": (
        "tests/servers/test_api_servers.py::test_users_see_shared_servers_and_may_not_change_them",
    ),
    "R-246": ("tests/test_routes.py::test_every_route_demands_a_scope_or_is_known_to_be_open",),
    "R-100": ("tests/audit/test_audit_api.py::test_a_record_says_who_did_what_from_where",),
    "R-101": (
        "tests/audit/test_audit_api.py::test_a_record_says_who_did_what_from_where",
        "tests/audit/test_audit_api.py::test_every_mutation_has_exactly_one_record",
        "tests/audit/test_audit_api.py::test_without_the_record_there_is_no_change",
    ),
    "R-102": (
        "tests/audit/test_audit_api.py::test_records_hold_neither_secrets_nor_their_ciphertexts",
        "tests/sync/test_sync_api.py::test_the_secret_is_stored_sealed_and_recorded_without_it",
    ),
    "R-103": (
        "tests/audit/test_audit_api.py::test_refused_attempts_are_recorded",
        "tests/gateway/test_policing.py::test_a_denied_call_is_told_like_an_unknown_one_and_recorded_as_what_it_is",
        "tests/access/policies/test_whole_way.py::test_what_is_destructive_is_denied_everywhere_and_administrators_hear_why",
    ),
    "R-245": (
        "tests/access/test_permissions_api.py::test_a_server_shared_with_a_group_appears_for_its_members_and_goes_again",
    ),
    "R-247": (
        "tests/servers/test_api_servers.py::test_administrators_narrow_a_list_to_one_author",
    ),
    "R-248": (
        "tests/servers/test_queries.py::test_a_list_takes_the_same_few_commands_however_long_it_is",
        "tests/servers/test_service.py::test_lists_and_totals_hold_only_what_the_caller_may_see",
    ),
    "R-249": (
        "tests/tokens/test_api_sessions.py::test_a_demoted_user_gets_no_more_than_users_get",
        "tests/tokens/test_api_sessions.py::test_a_user_who_is_gone_gets_nothing_any_more",
        "tests/tokens/test_api_sessions.py::test_all_tokens_of_a_user_are_revoked_of_whatever_kind",
        "tests/tokens/test_revocation.py::test_a_revocation_is_in_force_everywhere_within_a_second",
        "tests/auth/test_bearer.py::test_a_changed_role_counts_after_the_cache_time",
        "tests/auth/test_bearer.py::test_a_deleted_user_is_out_after_the_cache_time",
        "tests/servers/test_api_identity.py::test_a_demoted_user_loses_the_rights_with_what_is_remembered",
    ),
    "R-250": (
        "tests/servers/test_api_servers.py::test_anothers_private_server_looks_like_none",
        "tests/servers/test_service.py::test_lists_and_totals_hold_only_what_the_caller_may_see",
        "tests/servers/test_service.py::test_only_administrators_list_by_another_author",
        "tests/tokens/test_repository.py::test_nobody_reads_or_changes_anothers_token",
    ),
    "R-260": (
        "tests/tokens/test_api_stored.py::test_a_token_is_stored_and_read",
        "tests/tokens/test_api_stored.py::test_a_token_that_jarvis_wrote_is_read_and_stored_back_in_place",
        "tests/tokens/test_api_stored.py::test_everything_is_recorded_once_and_no_value_anywhere",
        "tests/tokens/test_api_stored.py::test_nothing_is_read_or_written_without_its_scope",
        "tests/tokens/test_api_stored.py::test_tokens_of_a_server_are_stored_where_jarvis_looks_for_them",
    ),
    "R-261": (
        "tests/tokens/test_api_stored.py::test_a_token_is_stored_and_read",
        "tests/tokens/test_api_stored.py::test_an_expired_token_is_gone_before_it_is_swept",
        "tests/tokens/test_api_stored.py::test_reading_can_be_turned_off",
        "tests/tokens/test_api_stored.py::test_what_cannot_be_recorded_is_not_done",
    ),
    "R-262": (
        "tests/tokens/test_api_stored.py::test_a_list_has_pages_and_no_values",
        "tests/tokens/test_api_stored.py::test_a_list_is_empty_or_fifty_long_by_itself",
        "tests/tokens/test_api_stored.py::test_a_list_is_not_asked_for_anyhow",
        "tests/tokens/test_api_stored.py::test_lists_are_narrowed_by_type_and_identifier_in_either_form",
    ),
    "R-263": (
        "tests/tokens/test_api_stored.py::test_a_first_refresh_token_is_stored_and_linked",
        "tests/tokens/test_api_stored.py::test_a_pair_of_jarvis_is_linked_by_its_identifiers",
        "tests/tokens/test_api_stored.py::test_an_access_token_comes_back_under_its_id_while_its_refresh_token_lives",
        "tests/tokens/test_api_stored.py::test_refreshing_replaces_both_tokens_in_one_step",
        "tests/tokens/test_api_stored.py::test_with_both_tokens_gone_there_is_nothing_to_refresh",
    ),
    "R-264": ("tests/tokens/test_api_stored.py::test_a_token_is_deleted_once",),
    "R-265": (
        "tests/auth/test_jwt.py::test_a_refresh_token_is_no_access_token_and_the_other_way_round",
        "tests/tokens/test_api_sessions.py::test_a_long_access_token_has_a_refresh_token_that_is_as_long",
        "tests/tokens/test_api_sessions.py::test_a_pair_is_generated",
        "tests/tokens/test_api_sessions.py::test_a_refresh_token_is_exchanged_once",
        "tests/tokens/test_api_sessions.py::test_a_refresh_token_that_comes_back_ends_the_whole_family",
        "tests/tokens/test_api_sessions.py::test_neither_token_stands_in_for_the_other",
        "tests/tokens/test_api_sessions.py::test_no_token_is_kept_recorded_or_logged",
        "tests/tokens/test_api_sessions.py::test_of_twenty_exchanges_at_once_one_wins_and_the_family_ends",
        "tests/tokens/test_api_sessions.py::test_what_is_no_good_refresh_token_is_refused_in_one_way",
    ),
    "R-266": (
        "tests/tokens/test_api_sessions.py::test_a_generated_token_hands_on_no_more_than_it_has",
        "tests/tokens/test_api_sessions.py::test_a_pair_that_makes_no_sense_is_refused",
        "tests/tokens/test_api_sessions.py::test_nothing_outlives_the_family_nor_what_it_was_generated_with",
        "tests/tokens/test_api_sessions.py::test_scopes_that_the_caller_lacks_are_named_all",
    ),
    "R-267": (
        "tests/test_cli.py::test_tokens_are_revoked",
        "tests/tokens/test_api_sessions.py::test_a_generated_token_may_do_what_it_says_and_nothing_else",
        "tests/tokens/test_api_sessions.py::test_administrators_revoke_tokens_that_are_not_on_record",
        "tests/tokens/test_api_sessions.py::test_revoking_a_token_ends_its_family_and_all_that_came_of_it",
        "tests/tokens/test_api_sessions.py::test_the_presented_token_is_revoked_with_what_was_generated_with_it",
        "tests/tokens/test_api_sessions.py::test_what_is_anothers_or_nobodys_looks_the_same",
        "tests/tokens/test_revocation.py::test_a_replica_that_starts_later_knows_what_was_revoked",
        "tests/tokens/test_revocation.py::test_a_revocation_is_in_force_everywhere_within_a_second",
    ),
    "R-268": (
        "tests/tokens/test_api_stored.py::test_nobody_reaches_anothers_token_not_even_an_administrator",
    ),
    "R-269": (
        "tests/tokens/test_api_stored.py::test_times_are_normalised_to_utc",
        "tests/tokens/test_api_stored.py::test_what_cannot_be_stored_is_refused",
    ),
    "R-270": ("tests/tokens/test_api_stored.py::test_stored_tokens_and_operations_are_measured",),
    "R-300": (
        "tests/core/test_settings.py::test_a_malformed_setting_is_one_line",
        "tests/core/test_settings.py::test_everything_that_is_missing_is_named_at_once",
        "tests/database/test_encryption.py::test_a_key_of_another_shape_is_refused_without_being_shown",
        "tests/database/test_encryption.py::test_an_iv_or_earlier_key_of_another_shape_is_refused",
        "tests/local/test_home.py::test_a_damaged_env_is_refused_and_left_alone",
        "tests/test_serving.py::test_every_problem_is_a_line_of_its_own",
        "tests/test_serving.py::test_without_settings_each_missing_one_is_a_line",
    ),
    "R-301": (
        "tests/database/test_encryption.py::test_any_text_survives_the_fixed_iv_form",
        "tests/database/test_encryption.py::test_empty_emoji_and_a_megabyte_survive_every_written_form",
        "tests/database/test_encryption.py::test_what_openssl_encrypted_is_read",
    ),
    "R-302": (
        "tests/database/test_encryption.py::test_any_text_survives_the_shared_form",
        "tests/database/test_encryption.py::test_the_same_text_is_stored_differently_each_time",
    ),
    "R-303": (
        "tests/database/test_encryption.py::test_a_cut_or_lengthened_sealed_value_is_detected",
        "tests/database/test_encryption.py::test_a_sealed_value_moved_elsewhere_is_refused",
        "tests/database/test_encryption.py::test_any_change_to_a_sealed_value_is_detected",
        "tests/database/test_encryption.py::test_damage_that_shows_is_refused",
    ),
    "R-304": (
        "tests/servers/test_service.py::test_credentials_are_stored_encrypted_and_used_for_the_connection",
        "tests/tokens/test_repository.py::test_a_dump_of_the_collection_holds_no_token",
        "tests/tokens/test_repository.py::test_a_users_key_is_kept_in_the_form_jarvis_reads",
    ),
    "R-305": (
        "tests/database/test_encryption.py::test_earlier_keys_are_read_and_never_written_with",
        "tests/gateway/test_key_change.py::test_no_call_fails_while_the_key_is_changed",
        "tests/gateway/test_sessions.py::test_replicas_that_read_each_others_key_open_each_others_seals",
        "tests/test_cli_creds.py::test_a_rotation_that_was_killed_is_finished_by_the_next_one",
        "tests/test_cli_creds.py::test_the_key_of_a_local_registry_is_changed_over_a_restart",
        "tests/test_rotation.py::test_a_value_stored_meanwhile_is_kept_and_looked_at_again",
        "tests/test_rotation.py::test_after_a_kill_between_any_two_writes_it_is_run_again",
        "tests/test_rotation.py::test_every_value_of_each_form_is_under_the_new_key_and_nothing_else_changed",
        "tests/test_rotation.py::test_shared_values_keep_the_forms_that_the_other_application_reads",
    ),
    "R-306": (
        "tests/auth/test_jwt.py::test_a_refusal_does_not_quote_the_token",
        "tests/auth/test_keys.py::test_the_private_key_does_not_show",
        "tests/core/test_logs.py::test_a_logged_traceback_holds_no_secret",
        "tests/core/test_logs.py::test_a_secret_within_a_text_is_masked",
        "tests/core/test_logs.py::test_a_value_under_a_secrets_name_is_masked_at_any_depth",
        "tests/core/test_logs.py::test_no_shape_of_an_event_lets_a_secret_through",
        "tests/core/test_logs.py::test_no_text_around_a_url_lets_its_password_through",
        "tests/core/test_settings.py::test_no_problem_quotes_a_secret",
        "tests/database/test_encryption.py::test_errors_name_the_place_and_neither_value_nor_key",
        "tests/servers/test_api_secrets.py::test_a_servers_secrets_show_nowhere",
        "tests/servers/test_api_secrets.py::test_tokens_are_not_logged",
        "tests/servers/test_seeding.py::test_a_report_does_not_quote_secrets",
        "tests/tokens/test_repository.py::test_a_token_does_not_show_in_its_value",
    ),
    "R-310": (
        "tests/scripts/test_generate_schemas.py::test_a_release_is_downloaded_pinned_and_generated",
        "tests/scripts/test_generate_schemas.py::test_an_altered_pin_is_refused_and_nothing_is_written",
        "tests/scripts/test_generate_schemas.py::test_another_release_is_pinned_completed_and_generated",
        "tests/scripts/test_generate_schemas.py::test_processes_with_other_hashes_and_folders_write_the_same",
        "tests/scripts/test_generate_schemas.py::test_the_pinned_release_is_generated",
    ),
    "R-311": (
        "tests/scripts/test_generate_schemas.py::test_without_a_version_the_one_of_the_folder_is_generated_from_its_pins",
    ),
    "R-312": ("tests/models/test_generated.py::test_a_model_says_where_it_comes_from",),
    "R-313": (
        "tests/models/test_package.py::test_models_of_another_release_are_refused_with_the_command",
        "tests/models/test_package.py::test_models_of_the_expected_release_are_accepted",
        "tests/test_cli.py::test_the_schemas_are_checked",
    ),
    "R-314": (
        "tests/models/test_package.py::test_without_generated_models_the_error_names_the_command",
        "tests/models/test_package.py::test_without_the_folder_the_error_is_the_same",
        "tests/scripts/test_generate_schemas.py::test_check_accepts_what_was_just_generated",
        "tests/scripts/test_generate_schemas.py::test_check_refuses_a_folder_without_models",
        "tests/scripts/test_generate_schemas.py::test_check_refuses_an_edited_file",
        "tests/scripts/test_generate_schemas.py::test_the_readme_that_is_kept_in_git_is_left_as_it_is",
    ),
    "R-315": (
        "tests/crossapp/test_updates.py::test_a_patch_keeps_every_field_that_it_does_not_name",
        "tests/crossapp/test_writes.py::test_a_registered_server_passes_the_other_applications_validator",
        "tests/models/test_documents.py::test_a_dump_by_alias_keeps_every_field",
        "tests/models/test_documents.py::test_a_server_is_inserted_as_the_other_application_stores_it",
        "tests/models/test_documents.py::test_a_stored_server_is_the_same_after_load_and_replace",
        "tests/models/test_documents.py::test_a_stored_server_is_the_same_after_load_and_save",
        "tests/models/test_documents.py::test_nulls_of_the_other_application_are_read_and_not_written_again",
        "tests/models/test_transport.py::test_the_first_transport_that_accepts_a_configuration_is_meant",
    ),
    "R-316": (
        "tests/crossapp/test_indexes.py::test_our_indexes_are_made_after_those_of_the_other_application",
        "tests/crossapp/test_indexes.py::test_the_other_applications_indexes_are_made_after_ours",
        "tests/database/test_client.py::test_an_index_with_other_options_is_reported_and_left_alone",
        "tests/database/test_schema.py::test_collections_that_others_own_get_no_index_and_no_validator",
        "tests/models/test_generated.py::test_no_index_is_declared_that_was_not_published",
        "tests/servers/test_service.py::test_a_document_of_the_other_application_is_listed_with_defaults_and_not_rewritten",
        "tests/tokens/test_repository.py::test_tokens_of_other_kinds_are_never_touched",
    ),
    "R-317": (
        "tests/models/test_documents.py::test_servers_are_found_by_author_and_by_a_field_of_the_config",
        "tests/test_fast_tier.py::test_documents_are_found_by_their_author",
    ),
    "R-318": (
        "tests/scripts/test_generate_schemas.py::test_a_file_of_another_version_is_refused_and_nothing_is_written",
        "tests/scripts/test_generate_schemas.py::test_a_stored_server_loads_into_raw_models",
        "tests/scripts/test_generate_schemas.py::test_raw_documents_keep_none_of_the_driver_and_gain_their_annotations",
        "tests/scripts/test_generate_schemas.py::test_raw_files_give_a_configuration_that_takes_headers_and_unknown_fields",
        "tests/scripts/test_generate_schemas.py::test_raw_files_give_the_same_classes_as_annotated_ones",
        "tests/scripts/test_generate_schemas.py::test_raw_variants_are_told_apart_by_their_type",
    ),
    "R-319": (
        "tests/tokens/test_api_stored.py::test_a_token_is_stored_and_read",
        "tests/tokens/test_repository.py::test_a_token_comes_back_as_it_was_stored",
    ),
    "R-320": (
        "tests/servers/test_seeding.py::test_a_bad_file_is_reported_and_stops_nothing",
        "tests/servers/test_seeding.py::test_a_second_run_imports_nothing_and_overwrites_nothing",
        "tests/servers/test_seeding.py::test_files_of_both_forms_are_imported",
        "tests/test_cli.py::test_files_are_imported_once",
        "tests/test_cli.py::test_the_seeding_script_is_the_same_command",
    ),
    "R-321": ("tests/servers/test_seeding.py::test_files_of_both_forms_are_imported",),
    "R-322": (
        "tests/servers/test_api_servers.py::test_a_bare_document_of_the_other_application_is_shown_with_defaults",
        "tests/models/test_documents.py::test_a_server_of_an_earlier_release_is_read_and_gains_nothing_by_saving",
    ),
    "R-330": (
        "tests/database/test_client.py::test_commands_and_connections_are_reported",
        "tests/database/test_client.py::test_lost_connections_are_reported",
        "tests/repository/test_docs.py::test_every_metric_is_listed",
        "tests/servers/test_registration_records.py::test_registrations_are_counted_by_outcome",
    ),
    "R-331": (
        "tests/core/test_logs.py::test_events_are_lines_of_json",
        "tests/repository/test_docs.py::test_every_log_event_is_listed",
        "tests/servers/test_registration_records.py::test_a_failed_registration_is_logged_with_its_error",
        "tests/servers/test_registration_records.py::test_a_registration_is_logged_from_its_attempt",
    ),
    "R-332": (
        "tests/database/test_client.py::test_a_server_that_comes_back_is_used_again",
        "tests/servers/test_api_outage.py::test_a_process_without_a_database_lives_and_is_not_ready_until_it_is_back",
        "tests/web/test_requests.py::test_one_red_check_makes_the_process_unready_and_leaves_it_alive",
    ),
    "R-333": (
        "tests/core/test_loop_lag.py::test_a_loop_that_is_held_up_shows_in_the_metrics",
        "tests/gateway/test_whole_way.py::test_nothing_on_the_way_makes_the_event_loop_wait",
    ),
    "R-334": (
        "tests/access/test_policy.py::test_the_decision_follows_scope_author_and_grants",
        "tests/test_routes.py::test_every_route_demands_a_scope_or_is_known_to_be_open",
    ),
    "E-01": (
        "tests/servers/test_service.py::test_of_fifty_registrations_of_one_name_exactly_one_wins",
    ),
    "E-02": (
        "tests/database/test_client.py::test_a_server_that_cannot_be_used_is_refused",
        "tests/servers/test_service.py::test_a_registration_that_fails_half_way_leaves_nothing",
        "tests/test_serving.py::test_a_standalone_database_is_one_line",
        "tests/sync/test_worker.py::test_a_sync_killed_at_any_write_leaves_the_old_or_the_new_set",
    ),
    "E-03": (
        "tests/servers/test_service.py::test_thousands_of_tools_are_stored_in_one_registration",
        "tests/sync/test_discovery.py::test_too_many_tools_are_refused_as_a_whole",
        "tests/tools/test_intake.py::test_what_cannot_be_taken_is_rejected_with_a_reason",
        "tests/tools/test_projection.py::test_a_recursive_schema_ends_in_an_open_object",
        "tests/sync/test_sync_api.py::test_a_tool_that_cannot_be_taken_any_more_says_why_and_is_served_on",
        "tests/sync/test_one_bad_object.py::test_a_tool_that_cannot_be_read_costs_only_itself",
    ),
    "E-04": (
        "tests/gateway/test_faults.py::test_a_fault_has_the_stated_outcome_and_is_felt_by_nobody_else",
        "tests/gateway/test_isolation.py::test_a_connection_that_is_not_made_in_time_is_given_up",
        "tests/gateway/test_forward.py::test_a_redirect_is_not_followed",
        "tests/gateway/test_forward.py::test_an_upstream_that_streams_for_ever_is_cut_off",
        "tests/gateway/test_forward.py::test_half_a_streamed_answer_does_not_look_whole",
        "tests/servers/test_api_input.py::test_a_redirect_to_a_forbidden_address_is_not_followed",
        "tests/sync/test_discovery.py::test_a_misbehaving_upstream_has_a_clear_and_bounded_end",
        "tests/upstream/test_guard.py::test_a_name_is_judged_by_what_it_resolves_to",
        "tests/upstream/test_pool.py::test_an_address_that_is_not_allowed_gets_no_connection",
    ),
    "E-05": (
        "tests/gateway/test_isolation.py::test_a_call_under_way_ends_well_when_it_would_not_be_let_in_any_more",
        "tests/tokens/test_revocation.py::test_a_call_in_flight_ends_and_the_next_one_is_refused",
    ),
    "E-13": (
        "tests/database/test_encryption.py::test_values_of_another_key_are_refused",
        "tests/gateway/test_snapshot.py::test_a_credential_of_another_key_is_a_problem_of_that_server_alone",
        "tests/local/test_home.py::test_keys_are_not_made_anew_when_data_exist",
        "tests/test_doctor.py::test_of_many_unreadable_values_some_are_named_and_all_counted",
        "tests/test_doctor.py::test_with_another_key_every_unreadable_value_is_named",
        "tests/tokens/test_repository.py::test_a_token_of_another_key_is_named_and_kept",
        "tests/test_cli_creds.py::test_without_the_old_key_each_value_is_named_and_none_is_changed",
        "tests/test_rotation.py::test_what_no_key_opens_stays_byte_for_byte_and_the_rest_is_rewritten",
        "tests/test_rotation.py::test_with_the_old_key_missing_everything_is_named_and_left",
    ),
    "E-14": (
        "tests/servers/test_api_input.py::test_a_field_that_cannot_be_taken_is_named",
        "tests/servers/test_api_servers.py::test_lists_leave_tool_functions_out_and_details_hold_them",
        "tests/servers/test_queries.py::test_a_list_takes_the_same_few_commands_however_long_it_is",
    ),
    "E-15": (
        "tests/servers/test_api_input.py::test_a_search_for_operators_and_patterns_is_a_search_for_text",
        "tests/servers/test_api_input.py::test_header_names_with_operators_are_stored_as_names",
        "tests/servers/test_api_servers.py::test_schemas_come_back_as_they_were_sent",
    ),
    "E-16": (
        "tests/core/test_values.py::test_canonical_json_refuses_what_json_cannot_say",
        "tests/servers/test_api_input.py::test_a_body_that_is_no_plain_json_object_is_refused",
        "tests/servers/test_api_servers.py::test_schemas_come_back_as_they_were_sent",
        "tests/tools/test_projection.py::test_a_whole_number_beyond_64_bits_becomes_one_that_fits",
        "tests/tools/test_projection.py::test_tools_beyond_the_size_of_a_document_keep_their_names_in_the_list",
    ),
    "E-21": (
        "tests/servers/test_seeding.py::test_a_private_server_of_somebody_else_is_not_overwritten",
        "tests/servers/test_seeding.py::test_a_second_run_imports_nothing_and_overwrites_nothing",
        "tests/servers/test_seeding.py::test_the_same_server_in_two_files_is_imported_once",
    ),
    "E-22": (
        "tests/crossapp/test_reads.py::test_a_server_with_secrets_is_listed_and_shown_with_masks",
        "tests/models/test_documents.py::test_a_server_of_an_earlier_release_is_read_and_gains_nothing_by_saving",
        "tests/servers/test_api_servers.py::test_a_bare_document_of_the_other_application_is_shown_with_defaults",
        "tests/servers/test_service.py::test_a_document_of_the_other_application_is_listed_with_defaults_and_not_rewritten",
    ),
    "E-08": (
        "tests/auth/test_bearer.py::test_without_the_database_callers_are_known_for_a_while",
        "tests/gateway/test_following.py::test_without_the_database_the_view_is_served_a_while_then_not_and_then_caught_up",
        "tests/servers/test_api_outage.py::test_without_a_database_requests_are_told_to_come_back",
    ),
    "R-014": ("tests/gateway/test_following.py::test_dropping_the_whole_view_changes_no_route",),
    "R-233": (
        "tests/access/policies/test_whole_way.py::test_a_raw_write_counts_within_a_second_and_what_cannot_be_read_refuses",
        "tests/test_replicas.py::test_a_change_on_one_replica_is_in_force_on_all_within_a_second",
    ),
    "R-015": ("tests/gateway/test_following.py::test_dropping_the_whole_view_changes_no_route",),
    "R-016": (
        "tests/repository/test_data_model.py::test_a_collection_is_written_by_the_one_module_that_the_table_names",
        "tests/repository/test_data_model.py::test_the_table_names_exactly_the_modules_that_touch_a_collection",
    ),
    "R-010": (
        "tests/gateway/test_combined.py::test_tools_of_servers_of_every_era_are_called",
        "tests/gateway/test_endpoint.py::test_a_tool_that_is_not_registered_is_refused_without_asking_the_upstream",
    ),
    "R-011": (
        "tests/gateway/test_combined.py::test_everything_of_all_servers_is_listed_under_names_of_its_own",
    ),
    "R-050": (
        "tests/servers/test_transport.py::test_environment_and_arguments_of_a_program_are_secrets",
        "tests/servers/versions/test_versions_api.py::test_a_change_of_the_connection_makes_a_version_and_other_changes_none",
    ),
    "R-051": (
        "tests/gateway/test_config_change.py::test_a_call_ends_where_it_began_and_the_next_goes_where_the_server_is_now",
        "tests/servers/versions/test_repository.py::test_the_database_refuses_what_must_not_be",
        "tests/servers/versions/test_repository.py::test_the_newest_are_kept_and_the_active_one_always",
        "tests/servers/versions/test_versions_api.py::test_a_registration_makes_version_one",
    ),
    "R-052": (
        "tests/servers/test_api_servers.py::test_a_registration_answers_the_whole_server_with_its_tools",
    ),
    "R-054": (
        "tests/servers/test_service.py::test_deleting_removes_everything_that_belongs_to_the_server_alone",
        "tests/servers/versions/test_versions_api.py::test_a_deleted_server_leaves_no_versions",
    ),
    "R-061": ("tests/database/test_schema.py::test_an_owners_tool_names_are_unique",),
    "E-06": (
        "tests/governance/test_tools_api.py::test_while_a_change_is_held_arguments_must_fit_what_was_approved",
    ),
    "R-063": (
        "tests/database/test_schema.py::test_an_older_validator_is_brought_up_to_date",
        "tests/database/test_schema.py::test_the_database_itself_refuses_a_change_to_a_bad_state",
        "tests/database/test_schema.py::test_the_database_itself_refuses_a_tool_in_a_bad_state",
    ),
    "R-164": ("tests/sync/test_discovery.py::test_tools_are_taken_as_they_came",),
    "R-169": ("tests/sync/test_discovery.py::test_all_pages_are_read",),
    "R-009": (
        "tests/access/policies/test_decisions.py::test_the_decision_is_what_the_policies_say_one_after_the_other",
        "tests/access/policies/test_decisions.py::test_the_same_policies_decide_the_same_in_any_order",
    ),
    "R-072": (
        "tests/governance/test_life.py::test_all_that_happens_to_a_tool_is_told",
        "tests/governance/test_tools_api.py::test_an_older_version_can_be_served_again_and_survives_a_sync",
        "tests/access/policies/test_policies_api.py::test_a_policy_is_made_read_changed_and_removed",
        "tests/access/policies/test_whole_way.py::test_a_tool_is_for_those_whom_its_policy_names_and_its_sibling_for_all",
    ),
    "R-077": (
        "tests/access/policies/test_repository.py::test_the_database_refuses_a_raw_write_of_what_is_no_policy",
        "tests/access/policies/test_whole_way.py::test_a_tool_is_for_those_whom_its_policy_names_and_its_sibling_for_all",
    ),
    "R-220": (
        "tests/gateway/test_policing.py::test_of_two_callers_one_finds_and_calls_a_tool_that_is_hidden_from_the_other",
        "tests/gateway/test_policing.py::test_pages_of_a_long_list_leave_out_what_is_hidden",
        "tests/access/policies/test_whole_way.py::test_a_tool_is_for_those_whom_its_policy_names_and_its_sibling_for_all",
    ),
    "R-232": (
        "tests/gateway/test_policing.py::test_a_tool_is_allowed_by_user_group_role_or_scope",
        "tests/access/policies/test_whole_way.py::test_a_tool_is_for_those_whom_its_policy_names_and_its_sibling_for_all",
    ),
    "R-221": (
        "tests/gateway/test_policing.py::test_a_denied_call_is_told_like_an_unknown_one_and_recorded_as_what_it_is",
        "tests/gateway/test_policing.py::test_of_two_callers_one_finds_and_calls_a_tool_that_is_hidden_from_the_other",
        "tests/gateway/test_combined.py::test_what_the_caller_may_not_use_is_like_what_does_not_exist",
        "tests/gateway/test_endpoint.py::test_a_tool_that_is_not_registered_is_refused_without_asking_the_upstream",
    ),
    "R-230": (
        "tests/gateway/test_combined.py::test_lists_and_other_servers_are_whole_while_a_server_is_away",
        "tests/gateway/test_isolation.py::test_a_dead_server_is_left_alone_and_keeps_its_tools",
        "tests/gateway/test_isolation.py::test_calls_to_a_server_that_works_succeed_while_another_hangs",
    ),
    "R-236": (
        "tests/gateway/test_combined.py::test_everything_of_all_servers_is_listed_under_names_of_its_own",
        "tests/gateway/test_naming.py::test_no_server_that_comes_or_goes_renames_what_another_offers",
    ),
    "R-231": ("tests/gateway/test_forward.py::test_calls_one_after_another_share_a_connection",),
    "R-235": (
        "tests/gateway/test_old_servers.py::test_credentials_go_to_the_stream_and_to_the_endpoint",
        "tests/gateway/test_endpoint.py::test_only_listed_headers_go_upstream_and_credentials_are_swapped",
    ),
    "R-280": (
        "tests/connections/test_health.py::test_a_thousand_connections_made_and_lost_write_nothing_but_when",
        "tests/connections/test_health.py::test_repeated_failures_make_an_active_server_one_in_error_which_is_recorded",
        "tests/connections/test_health.py::test_a_server_that_was_turned_off_is_never_touched",
    ),
    "R-281": (
        "tests/connections/test_policy.py::test_the_state_is_that_of_a_connection_that_is_not_stale",
        "tests/connections/test_tracker.py::test_a_connection_goes_from_disconnected_over_connecting_to_connected",
    ),
    "R-282": (
        "tests/connections/test_connections_api.py::test_nobody_is_shown_anybody_elses_connection",
        "tests/connections/test_service.py::test_no_worker_tells_of_another_users_connection",
        "tests/connections/test_tracker.py::test_users_have_connections_of_their_own_where_they_bring_credentials",
        "tests/gateway/test_connections.py::test_a_users_own_credentials_that_are_refused_are_an_error_of_that_user_alone",
    ),
    "R-285": (
        "tests/connections/test_connections_api.py::test_a_server_that_was_modified_is_disconnected_until_it_is_used_again",
        "tests/connections/test_policy.py::test_a_connection_is_stale_when_its_server_was_modified_or_nothing_used_it",
        "tests/connections/test_tracker.py::test_a_changed_configuration_forgets_the_connections_made_before",
    ),
    "R-286": (
        "tests/connections/test_connections_api.py::test_a_server_that_dies_is_marked_and_comes_back_by_itself",
        "tests/connections/test_health.py::test_a_server_in_error_comes_back_by_a_success_which_is_recorded",
        "tests/connections/test_health.py::test_a_success_writes_when_and_clears_what_is_stored_of_failures",
    ),
    "R-287": (
        "tests/connections/test_connections_api.py::test_a_server_that_dies_is_marked_and_comes_back_by_itself",
        "tests/connections/test_health.py::test_a_failure_writes_when_and_why_and_touches_nothing_else",
        "tests/connections/test_health.py::test_repeated_failures_make_an_active_server_one_in_error_which_is_recorded",
        "tests/servers/test_service.py::test_how_many_failures_make_an_error_is_a_setting",
        "tests/sync/test_sync_api.py::test_a_failed_sync_is_tried_again_and_told_and_changes_no_tools",
    ),
    "R-288": (
        "tests/connections/test_tracker.py::test_of_too_many_the_least_recently_used_is_forgotten_and_looked_up_like_any_other",
        "tests/connections/test_tracker.py::test_states_are_forgotten_after_a_while_without_news",
    ),
    "R-289": (
        "tests/connections/test_connections_api.py::test_lists_and_details_tell_state_and_recent_activity",
        "tests/connections/test_policy.py::test_a_server_is_recently_active_for_five_minutes",
    ),
    "R-290": (
        "tests/connections/test_health.py::test_a_thousand_connections_made_and_lost_write_nothing_but_when",
        "tests/connections/test_health.py::test_what_another_process_has_just_written_is_not_written_again",
        "tests/connections/test_writer.py::test_a_server_that_comes_and_goes_is_told_of_every_few_seconds",
        "tests/connections/test_writer.py::test_a_storm_of_connections_is_one_write_in_each_interval",
    ),
    "R-062": (
        "tests/tools/test_lifecycle.py::test_the_table_leads_from_states_to_states_and_is_no_riddle",
    ),
    "R-068": (
        "tests/governance/test_verification.py::test_what_was_done_through_the_api_is_in_order",
        "tests/governance/test_verification.py::test_the_database_refuses_states_that_do_not_go_together",
        "tests/governance/test_verification.py::test_what_others_wrote_and_must_not_be_is_found",
    ),
    "R-065": (
        "tests/tools/test_lifecycle.py::test_in_no_state_is_something_exposed_that_must_not_be",
    ),
    "R-066": (
        "tests/tools/test_lifecycle.py::test_in_no_state_is_something_exposed_that_must_not_be",
    ),
    "R-070": (
        "tests/tools/test_lifecycle.py::test_a_deleted_tool_comes_back_unexposed",
        "tests/governance/test_tools_api.py::test_nothing_vanishes_and_what_was_deleted_comes_back_with_its_history",
    ),
    "R-076": (
        "tests/governance/test_tools_api.py::test_what_people_say_of_a_tool_survives_every_sync",
    ),
    "R-151": (
        "tests/governance/test_tools_api.py::test_of_many_tools_exactly_the_selected_are_served",
    ),
    "R-152": (
        "tests/governance/test_tools_api.py::test_a_changed_tool_is_held_read_and_accepted",
        "tests/governance/test_life.py::test_all_that_happens_to_a_tool_is_told",
    ),
    "R-153": (
        "tests/governance/test_tools_api.py::test_who_may_not_change_a_server_sees_what_it_serves_and_no_more",
    ),
    "R-161": (
        "tests/tools/test_lifecycle.py::test_what_is_offered_no_longer_is_stale_and_never_deleted_for_that",
        "tests/tools/test_reconcile.py::test_a_tool_that_is_gone_becomes_stale_and_is_not_deleted",
        "tests/sync/test_sync_api.py::test_a_shared_server_holds_what_changed_until_somebody_decides",
    ),
    "R-163": (
        "tests/governance/test_tools_api.py::test_what_people_say_of_a_tool_survives_every_sync",
    ),
    "R-172": (
        "tests/tools/test_reconcile.py::test_an_unchanged_upstream_changes_nothing",
        "tests/sync/test_sync_api.py::test_a_sync_that_finds_nothing_new_leaves_no_trace_but_its_job",
    ),
    "R-031": ("tests/sync/test_sync_api.py::test_other_modes_and_intervals_are_refused",),
    "R-032": ("tests/sync/test_sync_api.py::test_a_sync_is_a_job_that_finds_what_changed",),
    "R-074": ("tests/sync/test_sync_api.py::test_a_sync_is_a_job_that_finds_what_changed",),
    "R-150": (
        "tests/sync/test_sync_api.py::test_a_sync_is_a_job_that_finds_what_changed",
        "tests/sync/test_sync_api.py::test_a_second_wish_joins_the_job_that_is_under_way",
        "tests/sync/test_sync_api.py::test_who_may_have_a_private_server_read",
    ),
    "R-155": (
        "tests/sync/test_sync_api.py::test_a_schedule_is_told_kept_and_ended",
        "tests/sync/test_sync_api.py::test_a_server_is_read_when_its_time_has_come_and_is_due_later_again",
        "tests/sync/test_sync_api.py::test_a_genuine_call_has_the_server_read",
        "tests/sync/test_sync_api.py::test_a_call_that_is_repeated_begins_nothing",
        "tests/sync/test_sync_api.py::test_of_calls_with_one_id_at_the_same_moment_one_is_the_first",
        "tests/sync/test_sync_api.py::test_calls_that_nobody_vouches_for_are_refused_alike",
        "tests/sync/test_webhooks.py::test_what_is_forged_or_old_is_refused",
        "tests/sync/test_worker.py::test_several_replicas_open_one_scheduled_job_and_skip_what_is_off",
    ),
    "R-156": (
        "tests/sync/test_sync_api.py::test_a_failed_sync_is_tried_again_and_told_and_changes_no_tools",
        "tests/sync/test_sync_api.py::test_what_was_given_up_can_be_asked_for_again",
        "tests/sync/test_schedule.py::test_waits_grow_to_their_bound_and_are_spread",
        "tests/sync/test_schedule.py::test_a_job_is_given_up_after_so_many_attempts",
        "tests/sync/test_worker.py::test_a_job_whose_workers_keep_dying_is_given_up",
        "tests/sync/test_worker.py::test_failures_are_tried_again_until_the_job_is_dead",
    ),
    "R-157": (
        "tests/sync/test_sync_api.py::test_a_failed_sync_is_tried_again_and_told_and_changes_no_tools",
        "tests/sync/test_sync_api.py::test_a_tool_that_cannot_be_taken_any_more_says_why_and_is_served_on",
        "tests/sync/test_sync_api.py::test_a_tool_that_no_parser_reads_any_more_is_served_on_and_costs_no_other",
    ),
    "R-168": (
        "tests/sync/test_sync_api.py::test_a_shared_server_holds_what_changed_until_somebody_decides",
    ),
    "R-170": (
        "tests/sync/test_sync_api.py::test_an_announcement_heard_on_a_stream_has_the_server_read",
        "tests/sync/test_worker.py::test_what_is_announced_while_a_job_runs_is_followed_by_another",
    ),
    "E-09": (
        "tests/sync/test_worker.py::test_the_job_of_a_dead_worker_is_taken_over_by_the_databases_clock",
    ),
    "R-158": (
        "tests/sync/test_worker.py::test_a_job_is_taken_once_however_many_want_it",
        "tests/sync/test_worker.py::test_there_is_one_open_job_for_a_server_however_many_ask",
        "tests/sync/test_worker.py::test_several_workers_read_each_server_once",
        "tests/sync/test_worker.py::test_the_job_of_a_dead_worker_is_taken_over_by_the_databases_clock",
        "tests/sync/test_worker.py::test_a_worker_that_was_taken_for_dead_stores_nothing",
        "tests/sync/test_worker.py::test_a_worker_learns_that_its_job_was_taken_over_and_stops",
        "tests/sync/test_worker.py::test_a_long_reading_keeps_its_lease",
    ),
    "R-159": (
        "tests/sync/test_worker.py::test_a_sync_killed_at_any_write_leaves_the_old_or_the_new_set",
    ),
    "R-006": (
        "tests/repository/test_services.py::test_one_service_alone_reconciles",
        "tests/repository/test_services.py::test_discovery_writes_nothing",
    ),
    "R-007": ("tests/repository/test_services.py::test_discovery_writes_nothing",),
    "R-008": (
        "tests/repository/test_services.py::test_one_service_alone_reconciles",
        "tests/repository/test_services.py::test_that_service_alone_writes_rows",
    ),
    "R-060": (
        "tests/database/test_schema.py::test_the_database_itself_refuses_a_tool_in_a_bad_state",
        "tests/database/test_schema.py::test_one_collection_takes_tools_of_both_kinds",
    ),
    "R-067": (
        "tests/gateway/test_snapshot.py::test_a_server_that_is_turned_off_or_deleted_elsewhere_loses_its_route",
    ),
    "R-069": (
        "tests/governance/test_tools_api.py::test_nothing_vanishes_and_what_was_deleted_comes_back_with_its_history",
        "tests/tools/test_lifecycle.py::test_in_no_state_is_something_exposed_that_must_not_be",
    ),
    "R-071": (
        "tests/tools/test_intake.py::test_the_order_of_keys_does_not_change_the_hash",
        "tests/tools/test_intake.py::test_another_content_has_another_hash",
    ),
    "R-073": ("tests/repository/test_data_model.py::test_every_collection_is_in_the_table",),
    "R-154": (
        "tests/servers/test_unreachable_upstreams.py::test_every_reading_route_answers_without_one_connection_to_anywhere_else",
    ),
    "R-160": (
        "tests/sync/test_sync_api.py::test_a_failed_sync_is_tried_again_and_told_and_changes_no_tools",
        "tests/sync/test_discovery.py::test_an_answer_that_breaks_off_is_a_failure",
        "tests/sync/test_discovery.py::test_too_many_tools_are_refused_as_a_whole",
    ),
    "R-162": (
        "tests/sync/test_sync_api.py::test_a_sync_is_a_job_that_finds_what_changed",
        "tests/governance/test_tools_api.py::test_a_changed_tool_is_held_read_and_accepted",
    ),
    "R-165": (
        "tests/tools/test_metadata.py::test_nothing_that_an_upstream_says_changes_what_a_person_said",
    ),
    "R-166": (
        "tests/tools/test_metadata.py::test_names_say_something_that_is_marked_as_inferred",
        "tests/tools/test_metadata.py::test_a_person_wins_over_the_name",
    ),
    "R-167": (
        "tests/sync/test_sync_api.py::test_a_shared_server_holds_what_changed_until_somebody_decides",
        "tests/governance/test_tools_api.py::test_of_many_tools_exactly_the_selected_are_served",
    ),
    "R-237": (
        "tests/governance/test_tools_api.py::test_what_people_say_of_a_tool_survives_every_sync",
    ),
}
"""Tests by the requirement they prove."""

LATER: dict[str, str] = {
    "R-053": (
        "Callers of one tenant are kept from what is of another one (decision 0048); keys are not "
        "prefixed by tenant, and full tenants come later."
    ),
    "E-07": (
        "A record is written in the transaction of its change, which the driver retries as a "
        "whole; a real step-down of a primary was not tried."
    ),
    "R-030": (
        "Servers are kept so; raw_apis and the state of syncs come with REST APIs and the "
        "sync worker."
    ),
    "R-064": (
        "Indexes over owner and states, and states, are declared; that lists use them is measured "
        "against the driver's own query, and no plan of a MongoDB was looked at."
    ),
    "R-075": (
        "A tool of an MCP server is called by its name; methods of HTTP come with REST APIs."
    ),
    "R-171": "REST APIs cannot be registered yet.",
    "E-12": "OAuth tokens of upstreams are not refreshed here yet.",
    "E-18": "There is no catalog of public servers yet.",
    "R-012": "REST APIs cannot be registered yet.",
    "R-013": "MCP servers can; REST APIs with a description in OpenAPI come later.",
    "R-234": "REST APIs cannot be called yet.",
    "R-283": "States are in memory; OAuth tokens of upstreams are not tried yet.",
    "R-284": (
        "The order is decided (`registry.connections.policy`); there are no flows to be asked yet."
    ),
    "E-11": "OAuth tokens of upstreams are not refreshed here yet.",
}
"""What is there, and what is missing, by requirement."""
