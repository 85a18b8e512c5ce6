#include "graph/Event.h"

#include <functional>
#include <sstream>

namespace terra::graph {

ViewRule viewRuleOf(const std::string &name) {
  if (name == "aten::select.int")
    return ViewRule::Select;
  if (name == "aten::slice.Tensor")
    return ViewRule::Slice;
  return name == "aten::as_strided" ? ViewRule::AsStrided : ViewRule::None;
}

const char *Event::name() const {
  switch (kind) {
  case EventKind::Read:
    return "terra.read";
  case EventKind::End:
    return "terra.end";
  case EventKind::Call:
    break;
  }
  return op ? op->name.c_str() : "?";
}

bool Event::onlyMakesViews() const {
  if (kind != EventKind::Call || gate || !op || op->has(kOpRandom) || results.empty())
    return false;
  for (const Result &result : results)
    if (result.alias != Alias::View && result.alias != Alias::Same)
      return false;
  for (const Operand &operand : inputs)
    if (operand.written)
      return false;
  return true;
}

namespace {
void printOperand(std::ostream &os, const Operand &operand) {
  if (operand.storage == kNoStorage) {
    os << "undef";
    return;
  }
  os << '%' << operand.storage << ':' << toString(operand.meta) << (operand.offsetVaries ? " +fed" : "");
}

template <typename Range> void printList(std::ostream &os, const Range &range) {
  os << '[';
  const char *separator = "";
  for (auto value : range) {
    os << separator << value;
    separator = ", ";
  }
  os << ']';
}

void printArg(std::ostream &os, const Event &event, const Arg &arg) {
  switch (arg.kind) {
  case ArgKind::None:
    os << "None";
    return;
  case ArgKind::Tensor:
    printOperand(os, event.inputs[arg.first]);
    return;
  case ArgKind::TensorList:
    os << '[';
    for (uint32_t i = 0; i < arg.count; ++i) {
      os << (i ? ", " : "");
      printOperand(os, event.inputs[arg.first + i]);
    }
    os << ']';
    return;
  case ArgKind::Int:
  case ArgKind::NumberInt:
    os << (arg.varies ? "fed " : "") << arg.scalar.i;
    return;
  case ArgKind::Double:
  case ArgKind::NumberDouble:
    os << (arg.varies ? "fed " : "") << arg.scalar.d;
    return;
  case ArgKind::Bool:
  case ArgKind::NumberBool:
    os << (arg.scalar.i ? "True" : "False");
    return;
  case ArgKind::IntList:
  case ArgKind::BoolList:
    printList(os, arg.ints);
    return;
  case ArgKind::DoubleList:
    printList(os, arg.doubles);
    return;
  case ArgKind::String:
    os << '"' << arg.string << '"';
    return;
  case ArgKind::Opaque:
    os << '<' << (arg.string.empty() ? "opaque" : arg.string) << '>';
    return;
  }
}
} // namespace

std::string toString(const Event &event) {
  std::ostringstream os;
  const char *separator = "";
  for (const Result &result : event.results) {
    os << separator;
    separator = ", ";
    if (result.alias == Alias::Undefined)
      os << "undef";
    else
      os << '%' << result.storage << ':' << toString(result.meta);
  }
  if (!event.results.empty())
    os << " = ";
  os << event.name() << '(';
  separator = "";
  for (size_t i = 0; i < event.args.size(); ++i) {
    os << separator;
    separator = ", ";
    if (event.op && i < event.op->params.size() && event.args[i].kind != ArgKind::Tensor)
      os << event.op->params[i].name << '=';
    printArg(os, event, event.args[i]);
  }
  os << ')';
  if (event.gate)
    os << " gate";
  if (!event.location.empty())
    os << "  # " << event.location;
  return os.str();
}

} // namespace terra::graph
