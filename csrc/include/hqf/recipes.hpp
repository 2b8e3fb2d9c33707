// What is read from the text of a call, kept for the next call with the same text.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

namespace hqf {

template <class Recipe>
std::shared_ptr<const Recipe> cached(const std::string& text, Recipe (*make)(const std::string&)) {
  constexpr size_t kCached = 256;
  static std::mutex mutex;
  static std::unordered_map<std::string, std::shared_ptr<const Recipe>> recipes;
  {
    const std::lock_guard lock(mutex);
    if (const auto found = recipes.find(text); found != recipes.end()) return found->second;
  }
  auto recipe = std::make_shared<const Recipe>(make(text));
  const std::lock_guard lock(mutex);
  if (recipes.size() >= kCached) recipes.clear();
  return recipes.emplace(text, std::move(recipe)).first->second;
}

}  // namespace hqf
