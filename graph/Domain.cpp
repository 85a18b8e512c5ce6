#include "graph/Op.h"

#include <array>

namespace terra::graph {

namespace {

struct Rule {
  std::string_view op, param;
  Domain domain;
};

constexpr auto kRules = std::to_array<Rule>({
    {"arange", "start", Domain::Range},
    {"arange", "end", Domain::Range},
    {"bernoulli", "p", Domain::Probability},
    {"celu", "alpha", Domain::NotZero},
    {"div", "other", Domain::Divisor},
    {"exponential", "lambd", Domain::Positive},
    {"floor_divide", "other", Domain::Divisor},
    {"fmod", "other", Domain::Divisor},
    {"huber_loss", "delta", Domain::Positive},
    {"native_dropout", "p", Domain::Probability},
    {"normal", "std", Domain::NotNegative},
    {"pow", "exponent", Domain::Exponent},
    {"randint", "low", Domain::BelowNext},
    {"remainder", "other", Domain::Divisor},
    {"rrelu_with_noise", "lower", Domain::AtMostNext},
    {"rrelu_with_noise", "upper", Domain::AtLeastPrevious},
    {"smooth_l1_loss", "beta", Domain::Positive},
    {"softshrink", "lambd", Domain::NotNegative},
    {"uniform", "from", Domain::AtMostNext},
    {"uniform", "to", Domain::AtLeastPrevious},
});

} // namespace

std::string_view baseName(std::string_view name) {
  if (size_t colon = name.find("::"); colon != std::string_view::npos)
    name.remove_prefix(colon + 2);
  name = name.substr(0, name.find('.'));
  if (name.ends_with('_'))
    name.remove_suffix(1);
  return name;
}

Domain domainOf(std::string_view op, std::string_view param) {
  std::string_view base = baseName(op);
  if (base.starts_with("_foreach_"))
    base.remove_prefix(std::string_view("_foreach_").size());
  if (base.starts_with("select") || base.starts_with("slice"))
    return param == "index" || param == "start" || param == "end" ? Domain::Position : Domain::Any;
  if (base == "randint" && param == "high")
    return op.find(".low") == std::string_view::npos ? Domain::Positive : Domain::AbovePrevious;
  for (const Rule &rule : kRules)
    if (rule.op == base && rule.param == param)
      return rule.domain;
  return Domain::Any;
}

} // namespace terra::graph
