from lab import *
from ditta_core.normalisation import statistics_shift
import glob
P=sorted(glob.glob('/work/shared/data/camvid/clip_0016E5/images/*'))
for mn,s in(('city',CITY),('camvid',CAMVID)):
    m=load_model(s)
    for a in (0,30,60,90):
        clip=np.stack([cv2.imread(p)[...,::-1] for p in P[a:a+10]]); L,S,T=bn_stats(m,m.preprocess(clip,(368,480),CPU)); print(mn,'frames',a,'shift %.4f'%statistics_shift(S,T),'full-frame input, unlabelled',flush=True)
