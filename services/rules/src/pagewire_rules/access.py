"""Which roles may call which method of the rules service; a method that is not here nobody may."""

from pagewire_runtime.auth import MethodRoles

SERVICE = "/pagewire.rules.v1.RuleService/"

_READ = frozenset({"reader", "operator"})
_WRITE = frozenset({"operator"})

METHOD_ROLES: MethodRoles = {
    SERVICE + "CreateRule": _WRITE,
    SERVICE + "UpdateRule": _WRITE,
    SERVICE + "DeleteRule": _WRITE,
    SERVICE + "GetRule": _READ,
    SERVICE + "ListRules": _READ,
    SERVICE + "TryRules": _READ,
    SERVICE + "BacktestRule": _READ,
    SERVICE + "EvaluateEvents": _READ | {"webhook"},
}
