#!/usr/bin/python3
"""Compare proto/csi.proto, as protoc understands it, with the list of CSI 1.13's services, messages and fields.

Both are turned into one entry per line, with the full name of what holds it; an entry that only one side has is a
failure, so a wrong number shows as one missing and one surplus entry. Options are read by the specification's
numbers, not by the definitions of csi.proto, which are compared too.
"""
import os
import re
import subprocess
import sys
import tempfile

from google.protobuf import descriptor_pb2

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PACKAGE = "csi.v1"
SECRET, ALPHA = 1059, 1060

failures = 0


def report(name, why=None):
    global failures
    if why is None:
        print(f"PASS {name}")
    else:
        failures += 1
        print(f"FAIL {name}: {why}")


def option_numbers(options):
    """The numbers of the boolean options that are set. Unknown to Python, they are read off the wire form."""
    data, numbers, at = options.SerializeToString(), set(), 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            if varint():
                numbers.add(tag >> 3)
        elif tag & 7 == 2:
            at += varint()
        else:
            raise ValueError(f"option of wire type {tag & 7}")
    return numbers


def marks(options, allowed):
    """The list's words for the options that are set; an option that has no business there is told apart."""
    numbers = option_numbers(options)
    words = [word for number, word in ((SECRET, "SECRET"), (ALPHA, "ALPHA")) if number in numbers]
    words += [f"OPTION-{number}" for number in sorted(numbers - allowed)]
    return "".join(" " + word for word in words)


def field_type(field, maps):
    kinds = descriptor_pb2.FieldDescriptorProto
    if field.type_name in maps:
        return maps[field.type_name]
    word = field.type_name or kinds.Type.Name(field.type)[len("TYPE_"):].lower()
    return ("repeated " if field.label == kinds.LABEL_REPEATED else "") + word


def enum_entries(enum, scope):
    name = f"{scope}.{enum.name}"
    yield f"enum {name}" + marks(enum.options, {ALPHA})
    for value in enum.value:
        yield f"{name}: {value.name} = {value.number}" + marks(value.options, {ALPHA})


def message_entries(message, scope):
    name = f"{scope}.{message.name}"
    yield f"message {name}" + marks(message.options, {ALPHA})
    maps = {}
    for nested in message.nested_type:
        if nested.options.map_entry:
            key, value = (field_type(field, {}) for field in nested.field)
            maps[f".{name}.{nested.name}"] = f"map<{key},{value}>"
        else:
            yield from message_entries(nested, name)
    for field in message.field:
        oneof = f" (oneof {message.oneof_decl[field.oneof_index].name})" if field.HasField("oneof_index") else ""
        optional = " optional" if field.proto3_optional else ""
        yield (f"{name}: {field.number}: {field_type(field, maps)} {field.name}{oneof}{optional}"
               + marks(field.options, {SECRET, ALPHA}))
    for enum in message.enum_type:
        yield from enum_entries(enum, name)


def descriptor_entries(file):
    for service in file.service:
        name = f"{file.package}.{service.name}"
        yield f"service {name}" + marks(service.options, {ALPHA})
        for method in service.method:
            client = "stream " if method.client_streaming else ""
            server = "stream " if method.server_streaming else ""
            yield (f"{name}: rpc {method.name}({client}{method.input_type}) -> {server}{method.output_type}"
                   + marks(method.options, {ALPHA}))
    for enum in file.enum_type:
        yield from enum_entries(enum, file.package)
    for message in file.message_type:
        yield from message_entries(message, file.package)


def list_entries(path):
    """The list's lines, each with the full name of what it stands in."""
    holders = []  # (indentation, full name)
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            text = line.strip()
            if not text:
                continue
            indent = len(line) - len(line.lstrip())
            while holders and holders[-1][0] >= indent:
                holders.pop()
            scope = holders[-1][1] if holders else PACKAGE
            opened = re.match(r"(service|enum|message) (\w+)(.*)$", text)
            if opened:
                name = f"{scope}.{opened[2]}"
                holders.append((indent, name))
                yield f"{opened[1]} {name}{opened[3]}"
            else:
                yield f"{scope}: {text}"


def descriptor(path):
    with tempfile.TemporaryDirectory() as scratch:
        out = os.path.join(scratch, "set.pb")
        subprocess.run(["protoc", "-I", os.path.dirname(path), f"--descriptor_set_out={out}", path], check=True)
        with open(out, "rb") as data:
            return descriptor_pb2.FileDescriptorSet.FromString(data.read()).file[0]


def compare(name, ours, theirs):
    missing, surplus = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
    if missing or surplus:
        report(name, "; ".join([f"lacks «{e}»" for e in missing] + [f"has «{e}» too many" for e in surplus]))
    else:
        report(name)


def altered_differs(name, proto, listed, old, new):
    """The comparison sees a change of one entry: a test that cannot fail proves nothing."""
    with open(proto, encoding="utf-8") as source:
        text = source.read()
    if text.count(old) < 1:
        report(name, f"«{old}» is not in {proto}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "csi.proto")
        with open(path, "w", encoding="utf-8") as out:
            out.write(text.replace(old, new, 1))
        same = set(descriptor_entries(descriptor(path))) == set(listed)
    report(name, "the comparison did not notice" if same else None)


def options_expected():
    """The specification's option definitions: name, number, and what they extend."""
    alpha = {"alpha_enum": "Enum", "alpha_enum_value": "EnumValue", "alpha_field": "Field",
             "alpha_message": "Message", "alpha_method": "Method", "alpha_service": "Service"}
    entries = {f"{name} = {ALPHA} of .google.protobuf.{what}Options" for name, what in alpha.items()}
    return entries | {f"csi_secret = {SECRET} of .google.protobuf.FieldOptions"}


def main():
    proto = os.path.join(ROOT, "proto", "csi.proto")
    listed = list(list_entries(os.path.join(HERE, "csi-1.13-fields.txt")))
    file = descriptor(proto)
    ours = list(descriptor_entries(file))
    report("proto_list_is_whole", None if len(listed) > 400 else f"only {len(listed)} entries in the list")
    report("proto_package", None if file.package == PACKAGE else file.package)
    compare("proto_csi_entries", ours, listed)
    report("proto_csi_count", None if len(ours) == len(listed) else f"{len(ours)} entries, listed {len(listed)}")
    compare("proto_csi_options", [f"{e.name} = {e.number} of {e.extendee}" for e in file.extension],
            options_expected())
    for name, old, new in (
            ("number", "string staging_target_path = 3;", "string staging_target_path = 9;"),
            ("secret", " [(csi_secret) = true]", ""),
            ("alpha", " [(alpha_enum_value) = true]", ""),
            ("stream", "returns (stream ", "returns ("),
            ("oneof", "oneof access_type", "oneof access"),
            ("enum_value", "VARIABLE_LENGTH = 2", "VARIABLE_LENGTH = 3"),
            ("surplus", "message BlockMetadata {", "message BlockMetadata { bool ours = 99;")):
        altered_differs(f"proto_notices_{name}", proto, listed, old, new)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
