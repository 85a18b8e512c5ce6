// A place in a JSON document that knows its way from the root, for messages.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace terra::graph {

/// A view: document and parents must outlive it. Every accessor throws std::runtime_error "name: data.nodes[3].next: …"
/// when the value is not what was asked for.
class Field {
public:
  Field(const nlohmann::json &value, const std::string &name) : value_(&value), name_(&name) {}

  const nlohmann::json &value() const { return *value_; }
  bool isNull() const { return value_->is_null(); }

  [[noreturn]] void fail(const std::string &what) const {
    throw std::runtime_error(*name_ + ": damaged dump, at " + (path_.empty() ? "the top" : path_) + ": " + what);
  }

  bool has(const char *key) const {
    if (!value_->is_object())
      fail("must be an object");
    return value_->contains(key);
  }
  Field operator[](const char *key) const {
    if (!has(key))
      fail(std::string("\"") + key + "\" is missing");
    return {(*value_)[key], *name_, path_.empty() ? key : path_ + "." + key};
  }
  std::vector<Field> elements() const {
    if (!value_->is_array())
      fail("must be a list");
    std::vector<Field> all;
    all.reserve(value_->size());
    for (size_t i = 0; i < value_->size(); ++i)
      all.push_back({(*value_)[i], *name_, path_ + "[" + std::to_string(i) + "]"});
    return all;
  }

  std::string string() const {
    if (!value_->is_string())
      fail("must be a string");
    return value_->get<std::string>();
  }
  /// An optional boolean; false when missing.
  bool flag(const char *key) const {
    if (!has(key))
      return false;
    const nlohmann::json &value = (*value_)[key];
    if (!value.is_boolean())
      (*this)[key].fail("must be true or false");
    return value.get<bool>();
  }
  int64_t integer(int64_t low = std::numeric_limits<int64_t>::min(),
                  int64_t high = std::numeric_limits<int64_t>::max()) const {
    bool tooLarge =
        value_->is_number_unsigned() && value_->get<uint64_t>() > uint64_t(std::numeric_limits<int64_t>::max());
    if (!value_->is_number_integer() || tooLarge)
      fail("must be an integer");
    int64_t number = value_->get<int64_t>();
    if (number < low || number > high)
      fail(std::to_string(number) + " is out of range");
    return number;
  }
  uint64_t natural() const {
    if (!value_->is_number_unsigned())
      fail("must be an integer, and not negative");
    return value_->get<uint64_t>();
  }
  double real() const {
    if (value_->is_number())
      return value_->get<double>();
    std::string text = value_->is_string() ? value_->get<std::string>() : "";
    if (text == "inf" || text == "-inf")
      return text[0] == '-' ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
    if (text != "nan")
      fail("must be a number");
    return std::numeric_limits<double>::quiet_NaN();
  }
  /// The index of the value among `names`.
  template <typename Names> size_t oneOf(const Names &names) const {
    std::string text = string();
    for (size_t i = 0; i < names.size(); ++i)
      if (text == names[i])
        return i;
    fail("unknown kind \"" + text + "\"");
  }

private:
  Field(const nlohmann::json &value, const std::string &name, std::string path)
      : value_(&value), name_(&name), path_(std::move(path)) {}

  const nlohmann::json *value_;
  const std::string *name_;
  std::string path_;
};

} // namespace terra::graph
