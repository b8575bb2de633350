// The formats that images may have, in the order in which they are probed.

import {
  FORMAT_PARALLELS,
  FORMAT_QCOW2,
  FORMAT_QED,
  FORMAT_RAW,
  FORMAT_VDI,
  FORMAT_VHDX,
  FORMAT_VMDK,
  FORMAT_VPC,
} from '../protocol';
import { format, formatsForget } from './format';
import { isParallels, lookupParallels, openParallels } from './parallels';
import { lookupQcow2 } from './qcow2/mapping';
import { isQcow2, openQcow2 } from './qcow2/qcow2';
import { isQed, lookupQed, openQed } from './qed';
import { isRaw, lookupRaw, openRaw } from './raw';
import { isVdi, lookupVdi, openVdi } from './vdi';
import { isVhd, lookupVhd, openVhd } from './vhd';
import { isVhdx, lookupVhdx, openVhdx } from './vhdx';
import { isVmdk, lookupVmdk, openVmdk } from './vmdk';

export function formatsInit(): void {
  formatsForget();
  format(FORMAT_QCOW2, isQcow2, openQcow2, lookupQcow2);
  format(FORMAT_VMDK, isVmdk, openVmdk, lookupVmdk);
  format(FORMAT_VPC, isVhd, openVhd, lookupVhd);
  format(FORMAT_VHDX, isVhdx, openVhdx, lookupVhdx);
  format(FORMAT_VDI, isVdi, openVdi, lookupVdi);
  format(FORMAT_QED, isQed, openQed, lookupQed);
  format(FORMAT_PARALLELS, isParallels, openParallels, lookupParallels);
  format(FORMAT_RAW, isRaw, openRaw, lookupRaw);
}
