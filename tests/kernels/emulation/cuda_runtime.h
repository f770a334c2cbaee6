// Stands in for the toolkit's header of this name where tests/kernels/emulation is on the include path.
#pragma once
#include "simt.h"
