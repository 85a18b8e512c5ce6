// The boxed fallback below autograd: every op call of a listening thread passes here.
#pragma once

#include "runtime/Session.h"

namespace terra::frontend {

/// The region under way on this thread, or null.
runtime::Session *currentSession();
void setCurrentSession(runtime::Session *session);

} // namespace terra::frontend
