"""Which roles may call which method of the sync service; a method that is not here nobody may."""

from pagewire_runtime.auth import MethodRoles

DELIVERY = "/pagewire.sync.v1.DeliveryService/"
HISTORY = "/pagewire.sync.v1.HistoryService/"

_OPERATOR = frozenset({"operator"})
_READ = frozenset({"reader", "operator"})

METHOD_ROLES: MethodRoles = {
    DELIVERY + "SendMessage": _OPERATOR,
    DELIVERY + "ReplyToComment": _OPERATOR,
    DELIVERY + "HideComment": _OPERATOR,
    DELIVERY + "GetReply": _READ,
    HISTORY + "StartSync": _OPERATOR,
    HISTORY + "GetSyncRun": _READ,
    HISTORY + "ListSyncRuns": _READ,
    HISTORY + "WatchSyncRun": _READ,
    HISTORY + "CancelSyncRun": _OPERATOR,
}
