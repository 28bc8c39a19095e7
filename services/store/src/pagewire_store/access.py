"""Who may call what: every method of the store by name; what is not here admits nobody."""

from __future__ import annotations

from pagewire_runtime.auth import MethodRoles

_WEBHOOK = frozenset({"webhook"})
_RULES = frozenset({"rules"})
_SYNC = frozenset({"sync"})
_OPERATOR = frozenset({"operator"})
_READERS = frozenset({"reader", "operator"})

_ROLES = {
    "ClockService": {"GetTime": _WEBHOOK | _SYNC},
    "IngestService": {"Ingest": _WEBHOOK | _SYNC, "ReportReception": _WEBHOOK},
    "LaneService": {
        "ClaimLanes": _WEBHOOK,
        "ExtendLeases": _WEBHOOK,
        "CommitDecisions": _WEBHOOK,
    },
    "RuleBookService": {
        "CreateRule": _RULES,
        "UpdateRule": _RULES,
        "DeleteRule": _RULES,
        "GetRule": _RULES | _OPERATOR,
        "ListRules": _RULES | _OPERATOR,
        "GetRuleBooks": _RULES | _OPERATOR,
    },
    "OutboxService": {
        "EnqueueReply": _SYNC,
        "GetReply": _SYNC | _READERS,
        "GetLastHiding": _SYNC,
        "ClaimReplies": _SYNC,
        "RecordOutcomes": _SYNC,
        "ClaimReadBacks": _SYNC,
        "RecordReadBacks": _SYNC,
    },
    "PageCareService": {
        "ClaimPageChecks": _SYNC,
        "RecordPageCheck": _SYNC,
        "ReplaceToken": _SYNC,
        "GetPageCredentials": _SYNC,
    },
    "MirrorService": {
        "UpsertHistory": _SYNC,
        "StreamHistory": _SYNC,
        "ListThreads": _SYNC,
        "ListNameless": _SYNC,
        "RecordNames": _SYNC,
    },
    "RunService": {
        "StartRun": _SYNC,
        "GetRun": _SYNC,
        "ListRuns": _SYNC,
        "CancelRun": _SYNC,
        "ClaimRuns": _SYNC,
        "RecordRuns": _SYNC,
    },
    "PageService": {
        "ConnectPage": _OPERATOR,
        "GetPage": _READERS,
        "ListPages": _READERS,
        "DisconnectPage": _OPERATOR,
    },
    "ConversationService": {
        "ListConversations": _READERS,
        "GetConversation": _READERS,
        "ListMessages": _READERS,
        "SearchMessages": _READERS,
        "ListComments": _READERS,
    },
    "EventService": {"WatchEvents": _READERS},
    "OperationService": {
        "ListDecisions": _OPERATOR,
        "ListQuarantined": _OPERATOR,
        "GetQuarantined": _OPERATOR,
        "ReplayQuarantined": _OPERATOR,
        "ClaimReplays": _WEBHOOK,
        "ListParked": _OPERATOR,
        "RetryParked": _OPERATOR,
        "SettleParked": _OPERATOR,
        "GetStatus": _OPERATOR,
    },
}

METHOD_ROLES: MethodRoles = {
    f"/pagewire.store.v1.{service}/{method}": roles
    for service, methods in _ROLES.items()
    for method, roles in methods.items()
}
