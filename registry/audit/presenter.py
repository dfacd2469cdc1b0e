"""JSON answers of the audit API: snake_case, as stored. Pure."""

from registry.audit.values import AuditRecord
from registry.core.json import JsonObject
from registry.core.text import timestamp


def present_record(record: AuditRecord) -> JsonObject:
    """Return one record."""
    return {
        "id": record.id,
        "timestamp": timestamp(record.timestamp),
        "action": record.action,
        "entity_type": record.entity_type,
        "entity_id": record.entity_id,
        "outcome": record.outcome,
        "reason": record.reason,
        "user_id": record.user_id,
        "username": record.username,
        "role": record.role,
        "token_id": record.token_id,
        "request_id": record.request_id,
        "source_address": record.source_address,
        "changes": record.changes,
    }
