// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support/session.hpp"

int main(int count, char** arguments) {
  return oriel_test::run_session(count, arguments);
}
