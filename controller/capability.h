/*
 * Which volume capabilities Mooring serves (CSI, VolumeCapability): all seven access modes for block volumes;
 * for mounted ones those with one writer at most and no reader beside a writer on another node, since ext4
 * and xfs are file systems of one host. Pure functions.
 */
#pragma once

#include "controller/controller.h"

/* 0, or E_INVALID_ARGUMENT with why this is not served. */
int capability_check(const struct capability *capability, struct error *err);

/* Does this access mode forbid writing? */
bool capability_readonly(const struct capability *capability);
