#!/bin/bash
# Makes a small Linux guest that boots in v86 and in QEMU: a disk of 160 MiB with an MBR, GRUB, one ext4 partition, Debian's i386
# kernel and a shell on the first serial port. No mounts, no foreign dpkg: packages are unpacked, the file system is made from a
# folder. It takes packages from where this machine's apt has Debian itself from, with lists and state of its own: the machine's are
# not touched. Every time stamp and identifier is fixed: the same packages give the same bytes.
# usage: build.sh TARGET (a folder that does not exist yet; it appears when everything in it is complete). Run as root, for owners.
set -euo pipefail
TARGET=$1
WORK=$TARGET.making
SIZE_MIB=160
PARTITION_SECTOR=2048
SECTOR=512
STAMP=1700000000
UUID=6d1c5f0e-3b7a-4c55-9d2e-0a86f00d0001
# The kernel without PAE: the oldest processors, and v86.
KERNEL=linux-image-686
PACKAGES="base-files bash dash coreutils perl-base python3-minimal libpython3-stdlib busybox-static grep sed gzip tar findutils
  diffutils util-linux mount e2fsprogs file less vim-tiny ncurses-bin ncurses-base netbase"
# What runs here while the image is made, not in the guest.
TOOLS="grub-pc-bin grub-common libdevmapper1.02.1 cpio"
export LC_ALL=C TZ=UTC DEBIAN_FRONTEND=noninteractive SOURCE_DATE_EPOCH=$STAMP E2FSPROGS_FAKE_TIME=$STAMP
umask 022
rm -rf "$WORK"
mkdir -p "$WORK"
cd "$WORK"

# --- packages: an empty status makes apt bring all that the named ones depend on, for an architecture of its own --------------
# The release alone, without updates beside it: not every mirror has those for every architecture whole.
apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 'Component: main' |
  sort -u | awk '$2 !~ /-/ { print "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]", $0 }' > sources.list
[ -s sources.list ] || { echo 'apt has no source of Debian itself, or no lists of it: run apt-get update' >&2; exit 1; }
apt_for() {
  local arch=$1 state=$WORK/apt/$1
  shift
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  : > "$state/status"
  "$1" -o APT::Architecture="$arch" -o APT::Architectures::="$arch" -o Dir::State="$state" -o Dir::State::Lists="$state/lists" \
    -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" \
    -o Dir::Etc::SourceList="$WORK/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::PreferencesParts=/dev/null -o Acquire::Languages=none -o APT::Sandbox::User=root \
    -o APT::Install-Recommends=false -o APT::Keep-Downloaded-Packages=true -qq "${@:2}"
}
HOST=$(dpkg --print-architecture)
apt_for i386 apt-get update
KERNEL=$(apt_for i386 apt-cache depends $KERNEL | sed -n 's/^ *Depends: //p' | head -1)
apt_for i386 apt-get install -y --download-only $PACKAGES
mkdir -p kernel tools root/usr/{bin,sbin,lib}
apt_for "$HOST" apt-get update
(cd kernel && apt_for i386 apt-get download "$KERNEL")
(cd tools && apt_for "$HOST" apt-get download $TOOLS)

# --- unpack, with /usr merged --------------------------------------------------------------------------------------------------
for folder in bin sbin lib; do ln -s usr/$folder root/$folder; done
for deb in apt/i386/cache/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$deb" | tar -x -p --numeric-owner --keep-directory-symlink -C root
done
for deb in tools/*.deb; do dpkg-deb -x "$deb" tools; done
dpkg-deb -x kernel/*.deb kernel
rm -rf root/usr/share/{doc,locale,man,info,lintian}
VERSION=${KERNEL#linux-image-}

# --- the first file system: a static busybox, and the modules for an IDE disk and ext4 -----------------------------------------
MODULES="drivers/scsi/scsi_common drivers/scsi/scsi_mod drivers/ata/libata drivers/ata/ata_piix crypto/crct10dif_common
  crypto/crct10dif_generic lib/crc-t10dif lib/crc64 crypto/crc64_rocksoft_generic lib/crc64-rocksoft block/t10-pi drivers/scsi/sd_mod
  crypto/crc32c_generic lib/crc16 fs/mbcache fs/jbd2/jbd2 fs/ext4/ext4"
mkdir -p initrd/{bin,dev,proc,sys,newroot,mod}
cp root/bin/busybox initrd/bin/busybox
ln -s busybox initrd/bin/sh
for module in $MODULES; do
  cp "kernel/lib/modules/$VERSION/kernel/$module.ko" initrd/mod/
  echo "${module##*/}" >> initrd/mod/order
done
cat > initrd/init <<'E'
#!/bin/sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sysfs /sys; $B mount -t devtmpfs dev /dev
while read m; do $B insmod /mod/$m.ko || echo "insmod $m failed"; done < /mod/order
i=0; while [ ! -b /dev/sda1 ] && [ $i -lt 600 ]; do $B usleep 100000; i=$((i+1)); done
$B mount -t ext4 -o rw /dev/sda1 /newroot || exec /bin/sh
$B mount --move /dev /newroot/dev; $B mount --move /proc /newroot/proc; $B mount --move /sys /newroot/sys
exec $B switch_root /newroot /sbin/init
E
chmod 755 initrd/init
find initrd -exec touch -h -d @$STAMP {} +
(cd initrd && find . | sort | ../tools/bin/cpio --quiet -o -H newc -R 0:0 --reproducible) | gzip -9n > initrd.img

# --- the root file system ------------------------------------------------------------------------------------------------------
mkdir -p root/boot/grub root/{dev,proc,sys,run,tmp,root,mnt,data} root/etc/init.d
chmod 1777 root/tmp
cp "kernel/boot/vmlinuz-$VERSION" root/boot/vmlinuz
cp initrd.img root/boot/initrd.img
cat > root/boot/grub/grub.cfg <<'E'
linux /boot/vmlinuz root=/dev/sda1 rw console=ttyS0,115200 tsc=reliable mitigations=off audit=0 nowatchdog random.trust_cpu=on cryptomgr.notests noisapnp loglevel=4
initrd /boot/initrd.img
boot
E
ln -s /bin/busybox root/sbin/init
ln -sf bash root/bin/sh
cat > root/etc/inittab <<'E'
::sysinit:/etc/init.d/rcS
ttyS0::respawn:-/bin/bash
tty1::respawn:-/bin/bash
::ctrlaltdel:/bin/busybox reboot
::shutdown:/bin/umount -a -r
E
cat > root/etc/init.d/rcS <<'E'
#!/bin/sh
mount -t tmpfs tmpfs /run
/bin/busybox hostname -F /etc/hostname
echo "GUEST-READY $(uname -r) $(mount | grep ' / ')"
E
chmod 755 root/etc/init.d/rcS
echo guest > root/etc/hostname
echo 'root::0:0:root:/root:/bin/bash' > root/etc/passwd
echo 'root:x:0:' > root/etc/group
echo '/dev/sda1 / ext4 rw,noatime 0 1' > root/etc/fstab
printf '%s\n' 'export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root' \
  'case $(tty) in /dev/ttyS0) export TERM=vt100 ;; *) export TERM=linux ;; esac' "PS1='guest:\\w# '" 'cd /root' > root/etc/profile
echo 'set enable-bracketed-paste off' > root/etc/inputrc
# 8 MiB that are known and do not compress, to be summed from inside, and the sums of everything that the guest can run.
node -e 'const { createHash } = require("crypto"); const fs = require("fs"); const fd = fs.openSync(process.argv[1], "w");
  for (let i = 0; i < 262144; i++) fs.writeSync(fd, createHash("sha256").update("blob" + i).digest())' root/data/blob.bin
(cd root && find data usr/bin usr/lib -xdev -type f | sort | xargs md5sum) > sums
cp sums root/data/MD5SUMS
find root -exec touch -h -d @$STAMP {} +

# --- the disk: ext4, then GRUB's image in the gap before the partition, then the partition table --------------------------------
truncate -s ${SIZE_MIB}M guest.raw
OFFSET=$((PARTITION_SECTOR * SECTOR))
printf '[defaults]\n base_features = none\n[fs_types]\n ext4 = {\n }\n small = {\n }\n' > mke2fs.conf
MKE2FS_CONFIG=$WORK/mke2fs.conf mke2fs -q -F -t ext4 -b 4096 -I 256 -N 16384 -m 1 -J size=4 -L guestroot -U $UUID \
  -O none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum \
  -E offset=$OFFSET,hash_seed=$UUID,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,nodiscard \
  -d root guest.raw $(((SIZE_MIB * 1048576 - OFFSET) / 4096))
# mke2fs takes over when the files here were changed: those times are put right, so that two builds are alike.
USED=$(dumpe2fs -h "guest.raw?offset=$OFFSET" 2> /dev/null | awk '/^Inode count/{c=$3}/^Free inodes/{f=$3}END{print c-f}')
for inode in 2 $(seq 11 "$USED"); do
  for field in atime ctime mtime crtime; do echo "sif <$inode> $field @$STAMP"; echo "sif <$inode> ${field}_extra 0"; done
done > times
debugfs -w -f times "guest.raw?offset=$OFFSET" > /dev/null 2>&1
LD_LIBRARY_PATH=$(echo "$WORK"/tools/lib/*-linux-gnu):$(echo "$WORK"/tools/usr/lib/*-linux-gnu) tools/usr/bin/grub-mkimage \
  -d tools/usr/lib/grub/i386-pc -O i386-pc -p '(hd0,msdos1)/boot/grub' -o core.img biosdisk part_msdos ext2 linux normal
[ "$(stat -c %s core.img)" -le $(((PARTITION_SECTOR - 1) * SECTOR)) ]
bytes() { local value=$1; for _ in 1 2 3 4; do printf "\\x$(printf %02x $((value & 255)))"; value=$((value >> 8)); done; }
{
  head -c 440 tools/usr/lib/grub/i386-pc/boot.img
  printf '\x0d\xf0\x86\x0a\0\0'                                       # the disk's identifier
  printf '\x80\xfe\xff\xff\x83\xfe\xff\xff'                           # one entry: active, Linux
  bytes $PARTITION_SECTOR; bytes $((SIZE_MIB * 2048 - PARTITION_SECTOR))
  head -c 48 /dev/zero; printf '\x55\xaa'
} > mbr
[ "$(stat -c %s mbr)" = $SECTOR ]
cat mbr core.img | dd of=guest.raw bs=$SECTOR conv=notrunc status=none
e2fsck -fn "guest.raw?offset=$OFFSET" > /dev/null 2>&1

mkdir done
mv guest.raw done/guest.raw
mv -T done "$TARGET"
cd /
rm -rf "$WORK"
